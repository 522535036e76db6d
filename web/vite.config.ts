/** The page is built into the server's crate, as four files whose names stay. */
import { defineConfig } from "vite";

/** The server that `npm run dev` and the browser ask. */
const server = process.env.MOEFLUX_SERVER ?? "http://127.0.0.1:8080";

export default defineConfig({
  build: {
    outDir: process.env.PAGE_OUT ?? "../crates/moeflux-server/page",
    emptyOutDir: true,
    target: ["chrome123", "edge123", "firefox128", "safari17.5"],
    modulePreload: false,
    assetsInlineLimit: 0,
    rolldownOptions: {
      output: { entryFileNames: "page.js", assetFileNames: "page[extname]" },
    },
  },
  server: { proxy: { "/v1": server, "/live": server } },
});
