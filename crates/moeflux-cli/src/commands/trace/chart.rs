//! Hit rate against memory as an SVG picture: text in whatever sans serif there is, colours that
//! stand out on light and dark ground alike.

use std::fmt::Write as _;

/// A line of the chart.
pub struct Line {
    pub name: String,
    /// Drawn dashed, as what cannot be passed.
    pub bound: bool,
    /// Percent of experts in memory, hit rate in percent; ascending.
    pub points: Vec<(f64, f64)>,
}

/// The chart.
pub struct Chart {
    pub title: String,
    pub lines: Vec<Line>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 60.0;
const RIGHT: f64 = 130.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 52.0;
/// Least distance between the names at the right.
const NAME_GAP: f64 = 15.0;
/// Of middle lightness, and apart in hue and lightness also for the colour-blind.
const COLOURS: [&str; 7] = [
    "#3f8fd0", "#d9822b", "#2fa37c", "#c65a9c", "#8c7ae6", "#a08a28", "#c94f4f",
];

/// Grey that is legible on white and on black, and the ground of whoever shows the picture.
const STYLE: &str = "text{font:12px system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;\
    fill:#57606a}.t{font-size:14px;font-weight:600}.g{stroke:#8b949e;stroke-opacity:.3}\
    .a{stroke:#8b949e}.l{fill:none;stroke-width:2.2;stroke-linejoin:round}\
    .b{stroke:#57606a;stroke-dasharray:5 4}\
    @media(prefers-color-scheme:dark){text{fill:#adb5be}.b{stroke:#adb5be}}";

impl Chart {
    /// The picture.
    pub fn svg(&self) -> String {
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             width=\"{WIDTH}\" height=\"{HEIGHT}\" role=\"img\">\n<title>{0}</title>\n\
             <style>{STYLE}</style>\n<text class=\"t\" x=\"{LEFT}\" y=\"22\">{0}</text>\n",
            escape(&self.title)
        );
        self.axes(&mut out);
        let mut names = Vec::new();
        let mut colours = COLOURS.iter().cycle();
        for line in &self.lines {
            let points: Vec<String> = line
                .points
                .iter()
                .map(|&(percent, rate)| format!("{:.1},{:.1}", self.x(percent), y(rate)))
                .collect();
            let (class, colour) = match line.bound {
                true => ("l b", None),
                false => ("l", colours.next()),
            };
            let stroke = colour
                .map(|c| format!(" style=\"stroke:{c}\""))
                .unwrap_or_default();
            push(
                &mut out,
                format_args!(
                    "<polyline class=\"{class}\"{stroke} points=\"{}\"/>\n",
                    points.join(" ")
                ),
            );
            if let Some(&(_, rate)) = line.points.last() {
                let fill = colour
                    .map(|c| format!(" style=\"fill:{c}\""))
                    .unwrap_or_default();
                names.push((y(rate), escape(&line.name), fill));
            }
        }
        names.sort_by(|a, b| a.0.total_cmp(&b.0));
        spread(&mut names);
        for (at, name, fill) in names {
            let (x, at) = (WIDTH - RIGHT + 8.0, at + 4.0);
            push(
                &mut out,
                format_args!("<text x=\"{x}\" y=\"{at:.1}\"{fill}>{name}</text>\n"),
            );
        }
        out + "</svg>\n"
    }

    fn axes(&self, out: &mut String) {
        let (right, bottom) = (WIDTH - RIGHT, HEIGHT - BOTTOM);
        for rate in [0.0, 20.0, 40.0, 60.0, 80.0, 100.0] {
            let at = y(rate);
            push(
                out,
                format_args!(
                    "<line class=\"g\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{at:.1}\" \
                     y2=\"{at:.1}\"/>\n<text x=\"{}\" y=\"{:.1}\" \
                     text-anchor=\"end\">{rate}</text>\n",
                    LEFT - 8.0,
                    at + 4.0
                ),
            );
        }
        let mut last = f64::NEG_INFINITY;
        for &(percent, _) in self.lines.first().map_or(&[][..], |line| &line.points) {
            let at = self.x(percent);
            push(
                out,
                format_args!(
                    "<line class=\"a\" x1=\"{at:.1}\" x2=\"{at:.1}\" y1=\"{bottom}\" y2=\"{}\"/>\n",
                    bottom + 5.0
                ),
            );
            if at - last > 22.0 {
                last = at;
                push(
                    out,
                    format_args!(
                        "<text x=\"{at:.1}\" y=\"{}\" text-anchor=\"middle\">{percent}</text>\n",
                        bottom + 19.0
                    ),
                );
            }
        }
        push(
            out,
            format_args!(
                "<line class=\"a\" x1=\"{LEFT}\" x2=\"{right}\" y1=\"{bottom}\" y2=\"{bottom}\"/>\n\
                 <text x=\"{}\" y=\"{}\" text-anchor=\"middle\">experts that fit in memory, \
                 %</text>\n<text transform=\"translate(18 {}) rotate(-90)\" \
                 text-anchor=\"middle\">hit rate, %</text>\n",
                (LEFT + right) / 2.0,
                HEIGHT - 12.0,
                (TOP + bottom) / 2.0
            ),
        );
    }

    /// From 0 to the largest memory.
    fn x(&self, percent: f64) -> f64 {
        let points = self.lines.iter().flat_map(|line| &line.points);
        let most = points.map(|point| point.0).fold(1.0, f64::max);
        LEFT + percent / most * (WIDTH - LEFT - RIGHT)
    }
}

fn y(rate: f64) -> f64 {
    HEIGHT - BOTTOM - rate / 100.0 * (HEIGHT - TOP - BOTTOM)
}

/// Moves names apart, keeping their order and what they can of their places.
fn spread(names: &mut [(f64, String, String)]) {
    for at in 1..names.len() {
        names[at].0 = names[at].0.max(names[at - 1].0 + NAME_GAP);
    }
    let mut lowest = HEIGHT - BOTTOM;
    for name in names.iter_mut().rev() {
        name.0 = name.0.min(lowest);
        lowest = name.0 - NAME_GAP;
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

fn push(out: &mut String, what: std::fmt::Arguments<'_>) {
    // Writing to a string cannot fail.
    let _ = out.write_fmt(what);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(rates: &[f64]) -> Chart {
        let line = |(at, &rate): (usize, &f64)| Line {
            name: format!("policy <{at}>"),
            bound: at == 0,
            points: vec![(10.0, rate / 2.0), (50.0, rate)],
        };
        Chart {
            title: "a & b".into(),
            lines: rates.iter().enumerate().map(line).collect(),
        }
    }

    #[test]
    fn every_line_and_name_is_there_and_escaped() {
        let svg = chart(&[90.0, 80.0, 70.0]).svg();
        assert_eq!(svg.matches("<polyline").count(), 3);
        assert_eq!(svg.matches("policy &lt;").count(), 3);
        assert!(svg.contains("<title>a &amp; b</title>"), "{svg}");
        assert!(
            !svg.contains("http") || svg.matches("http").count() == 1,
            "only the namespace"
        );
    }

    #[test]
    fn names_never_overlap_nor_leave_the_picture() {
        for rates in [
            vec![1.0; 6],
            vec![99.0; 6],
            vec![50.0, 50.1, 50.2, 80.0, 0.0, 0.1],
        ] {
            let mut names: Vec<(f64, String, String)> = rates
                .iter()
                .map(|&r| (y(r), String::new(), String::new()))
                .collect();
            names.sort_by(|a, b| a.0.total_cmp(&b.0));
            spread(&mut names);
            assert!(
                names.windows(2).all(|n| n[1].0 - n[0].0 >= NAME_GAP - 1e-9),
                "{names:?}"
            );
            assert!(
                names.iter().all(|n| (0.0..=HEIGHT - BOTTOM).contains(&n.0)),
                "{names:?}"
            );
        }
    }
}
