//! Kernels as text: WGSL with parameters filled in.
//!
//! `${NAME}` stands for a parameter's value. Lines between `//#if NAME` and `//#else` or
//! `//#endif` are kept where the parameter is there and not 0. Lines between `//#each I COUNT` and
//! `//#end` are repeated with `${I}` from 0 to below the parameter COUNT. Both nest.

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
        self.lines(&lines, params, &mut out)?;
        Ok(out)
    }

    fn lines(&self, lines: &[&str], params: &[Param], out: &mut String) -> Result<(), GpuError> {
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
                    self.repeat(loop_of, &lines[body], params, out)?;
                }
                continue;
            }
            if let Some(name) = command.strip_prefix("//#if ") {
                kept.push(params.iter().any(|&(n, v)| n == name.trim() && v != 0));
            } else if command == "//#else" {
                if let Some(last) = kept.last_mut() {
                    *last = !*last;
                }
            } else if command == "//#endif" {
                kept.pop();
            } else if kept.iter().all(|&keep| keep) {
                self.fill(line, params, out)?;
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
        params: &[Param],
        out: &mut String,
    ) -> Result<(), GpuError> {
        let mut words = loop_of.split_whitespace();
        let (name, count) = (words.next(), words.next());
        let problem = || GpuError::Refused {
            problem: format!("kernel {} has no value for `{loop_of}`", self.name),
        };
        let known = |name: Option<&str>| params.iter().find(|(n, _)| Some(*n) == name).copied();
        let count = known(count).ok_or_else(problem)?.1;
        let names = INDICES.iter().find(|n| Some(**n) == name);
        let name = *names.ok_or_else(problem)?;
        for index in 0..count {
            let mut inner = vec![(name, index)];
            inner.extend_from_slice(params);
            self.lines(body, &inner, out)?;
        }
        Ok(())
    }

    fn fill(&self, line: &str, params: &[Param], out: &mut String) -> Result<(), GpuError> {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, behind) = after.split_once('}').unwrap_or((after, ""));
            let Some((_, value)) = params.iter().find(|(n, _)| *n == name) else {
                let problem = format!("kernel {} has no value for {name}", self.name);
                return Err(GpuError::Refused { problem });
            };
            out.push_str(before);
            out.push_str(&value.to_string());
            rest = behind;
        }
        out.push_str(rest);
        Ok(())
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
    fn loops() {
        let part =
            "//#each I N\na${I}\n//#each J M\n//#if J\nb${I}${J}\n//#endif\n//#end\n//#end\nz";
        let shader = Shader {
            name: "test",
            parts: &[part],
        };
        let text = shader.text(&[("N", 2), ("M", 3)]).expect("all are given");
        assert_eq!(text, "a0\nb01\nb02\na1\nb11\nb12\nz\n");
        assert_eq!(shader.text(&[("N", 0)]).expect("M is not needed"), "z\n");
        assert!(shader.text(&[("M", 1)]).is_err());
    }
}
