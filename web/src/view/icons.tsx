/** Line icons, drawn in the colour of the text around them. */

const PATHS = {
  menu: "M4 6h16M4 12h16M4 18h16",
  plus: "M12 5v14M5 12h14",
  send: "M12 19V5M6 11l6-6 6 6",
  stop: "M7 7h10v10H7z",
  again: "M20 11a8 8 0 1 0-2.3 6.3M20 4v7h-7",
  edit: "M4 20h4L19 9l-4-4L4 16zM13 7l4 4",
  trash: "M4 7h16M9 7V4h6v3M6 7l1 13h10l1-13",
  left: "M15 6l-6 6 6 6",
  right: "M9 6l6 6-6 6",
  gear: "M4 7h10M18 7h2M4 17h2M10 17h10M14 4.500v5M6.500 14.500v5",
  live: "M3 12h4l3-8 4 16 3-8h4",
  close: "M6 6l12 12M18 6L6 18",
  tool: "M14 6a4 4 0 0 0 4.600 5.300L20 10a6 6 0 0 1-8 7l-5 4-4-4 7-7a6 6 0 0 1 7-7z",
  wide: "M9 4H4v5M15 20h5v-5M4 4l6 6M20 20l-6-6",
};

/** An icon; what it means is said by the button that it is in. */
export function Icon({ name }: { name: keyof typeof PATHS }) {
  return (
    <svg class="icon" data-name={name} viewBox="0 0 24 24" aria-hidden="true">
      <path d={PATHS[name]} />
    </svg>
  );
}
