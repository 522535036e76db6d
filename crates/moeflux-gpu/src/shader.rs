//! Kernels as text: WGSL with parameters filled in.
//!
//! `${NAME}` stands for a parameter's value. Lines between `//#if NAME` and `//#else` or
//! `//#endif` are kept where the parameter is there and not 0. Lines between `//#each I COUNT` and
//! `//#end` are repeated with `${I}` from 0 to below the parameter COUNT. Both nest. After a line
//! `//#form LETTER BINDING` parameters have names that begin with the letter, `${F}` is the letter and
//! `${M}` the binding; before one they are empty and `m`, and the condition `IS_FIRST` holds.

use crate::GpuError;

/// A kernel before its parameters are known.
#[derive(Clone, Copy, Debug)]
pub struct Shader {
    /// Its name, unique among shaders.
    pub name: &'static str,
    /// WGSL, part after part; the entry point is `main`.
    pub parts: &'static [&'static str],
}

/// Names that loops may count with.
const INDICES: [&str; 3] = ["I", "J", "K"];

/// Lines before the `//#end` of the loop that these lines begin in.
fn body_len(lines: &[&str]) -> usize {
    let mut depth = 0;
    for (at, line) in lines.iter().enumerate() {
        match line.trim() {
            "//#end" if depth == 0 => return at,
            "//#end" => depth -= 1,
            line if line.starts_with("//#each ") => depth += 1,
            _ => {}
        }
    }
    lines.len()
}

/// A parameter of a kernel.
pub type Param = (&'static str, u32);

impl Shader {
    /// The kernel's text with these parameters.
    ///
    /// # Errors
    /// [`GpuError::Refused`] for a parameter that is not given.
    pub fn text(&self, params: &[Param]) -> Result<String, GpuError> {
        let lines: Vec<&str> = self.parts.iter().flat_map(|part| part.lines()).collect();
        let mut out = String::new();
        self.lines(&lines, Names::first(params), &mut out)?;
        Ok(out)
    }

    fn lines<'a>(
        &self,
        lines: &[&'a str],
        mut names: Names<'a>,
        out: &mut String,
    ) -> Result<(), GpuError> {
        // For each condition that holds this line: whether its lines are kept.
        let mut kept: Vec<bool> = Vec::new();
        let mut at = 0;
        while let Some(line) = lines.get(at) {
            at += 1;
            let command = line.trim();
            if let Some(loop_of) = command.strip_prefix("//#each ") {
                let body = at..at + body_len(&lines[at..]);
                at = body.end + 1;
                if kept.iter().all(|&keep| keep) {
                    self.repeat(loop_of, &lines[body], names, out)?;
                }
                continue;
            }
            if let Some(name) = command.strip_prefix("//#if ") {
                kept.push(names.holds(name.trim()));
            } else if command == "//#else" {
                if let Some(last) = kept.last_mut() {
                    *last = !*last;
                }
            } else if command == "//#endif" {
                kept.pop();
            } else if let Some(form) = command.strip_prefix("//#form ") {
                (names.letter, names.binding) = form.split_once(' ').unwrap_or((form, "m"));
            } else if kept.iter().all(|&keep| keep) {
                self.fill(line, &names, out)?;
                out.push('\n');
            }
        }
        Ok(())
    }

    /// The lines of a loop, `NAME COUNT`.
    fn repeat(
        &self,
        loop_of: &str,
        body: &[&str],
        names: Names<'_>,
        out: &mut String,
    ) -> Result<(), GpuError> {
        let params = names.params;
        let mut words = loop_of.split_whitespace();
        let (name, count) = (words.next(), words.next());
        let problem = || GpuError::Refused {
            problem: format!("kernel {} has no value for `{loop_of}`", self.name),
        };
        let count = count.and_then(|name| names.value(name));
        let count = count.ok_or_else(problem)?;
        let index = INDICES.iter().find(|n| Some(**n) == name);
        let name = *index.ok_or_else(problem)?;
        for index in 0..count {
            let mut inner = vec![(name, index)];
            inner.extend_from_slice(params);
            let names = Names {
                params: &inner,
                ..names
            };
            self.lines(body, names, out)?;
        }
        Ok(())
    }

    fn fill(&self, line: &str, names: &Names<'_>, out: &mut String) -> Result<(), GpuError> {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, behind) = after.split_once('}').unwrap_or((after, ""));
            out.push_str(before);
            match (name, names.value(name)) {
                ("F", _) => out.push_str(names.letter),
                ("M", _) => out.push_str(names.binding),
                (_, Some(value)) => out.push_str(&value.to_string()),
                (_, None) => {
                    let problem = format!("kernel {} has no value for {name}", self.name);
                    return Err(GpuError::Refused { problem });
                }
            }
            rest = behind;
        }
        out.push_str(rest);
        Ok(())
    }
}

/// What names stand for at a place of a kernel's text.
#[derive(Clone, Copy)]
struct Names<'a> {
    params: &'a [Param],
    letter: &'a str,
    binding: &'a str,
}

impl<'a> Names<'a> {
    fn first(params: &'a [Param]) -> Names<'a> {
        Names {
            params,
            letter: "",
            binding: "m",
        }
    }

    fn value(&self, name: &str) -> Option<u32> {
        let letter = match INDICES.contains(&name) {
            true => "",
            false => self.letter,
        };
        let found = self.params.iter().find(|(known, _)| {
            let own = known.strip_prefix(letter);
            own == Some(name)
        });
        found.map(|&(_, value)| value)
    }

    fn holds(&self, name: &str) -> bool {
        match name {
            "IS_FIRST" => self.letter.is_empty(),
            _ => self.value(name).is_some_and(|value| value != 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_conditions() {
        let shader = Shader {
            name: "test",
            parts: &[
                "a ${N}\n//#if X\nx\n//#if N\nn\n//#endif\n//#else\ny ${N}${N}\n//#endif",
                "z",
            ],
        };
        let text = |params: &[Param]| shader.text(params).expect("all parameters are given");
        assert_eq!(text(&[("N", 3), ("X", 1)]), "a 3\nx\nn\nz\n");
        assert_eq!(text(&[("N", 0), ("X", 0)]), "a 0\ny 00\nz\n");
        assert!(shader.text(&[]).is_err());
    }

    #[test]
    fn two_forms() {
        let shader = Shader {
            name: "two",
            parts: &["f${F} ${M} ${N}", "//#form B other", "f${F} ${M} ${N}"],
        };
        let text = shader.text(&[("N", 1), ("BN", 2)]);
        assert_eq!(text.expect("all are given"), "f m 1\nfB other 2\n");
    }

    #[test]
    fn loops() {
        const PART: &str =
            "//#each I N\na${I}\n//#each J M\n//#if J\nb${I}${J}\n//#endif\n//#end\n//#end\nz";
        let shader = Shader {
            name: "test",
            parts: &[PART],
        };
        let text = shader.text(&[("N", 2), ("M", 3)]).expect("all are given");
        assert_eq!(text, "a0\nb01\nb02\na1\nb11\nb12\nz\n");
        assert_eq!(shader.text(&[("N", 0)]).expect("M is not needed"), "z\n");
        assert!(shader.text(&[("M", 1)]).is_err());
    }
}
