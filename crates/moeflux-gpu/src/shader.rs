//! Kernels as text: WGSL with parameters filled in.
//!
//! `${NAME}` stands for a parameter's value. Lines between `//#if NAME` and `//#else` or
//! `//#endif` are kept where the parameter is there and not 0; conditions nest.

use crate::GpuError;

/// A kernel before its parameters are known.
#[derive(Clone, Copy, Debug)]
pub struct Shader {
    /// Its name, unique among shaders.
    pub name: &'static str,
    /// WGSL, part after part; the entry point is `main`.
    pub parts: &'static [&'static str],
}

/// A parameter of a kernel.
pub type Param = (&'static str, u32);

impl Shader {
    /// The kernel's text with these parameters.
    ///
    /// # Errors
    /// [`GpuError::Refused`] for a parameter that is not given.
    pub fn text(&self, params: &[Param]) -> Result<String, GpuError> {
        let mut out = String::new();
        // For each condition that holds this line: whether its lines are kept.
        let mut kept: Vec<bool> = Vec::new();
        for line in self.parts.iter().flat_map(|part| part.lines()) {
            let command = line.trim();
            if let Some(name) = command.strip_prefix("//#if ") {
                kept.push(params.iter().any(|&(n, v)| n == name.trim() && v != 0));
            } else if command == "//#else" {
                if let Some(last) = kept.last_mut() {
                    *last = !*last;
                }
            } else if command == "//#endif" {
                kept.pop();
            } else if kept.iter().all(|&keep| keep) {
                self.fill(line, params, &mut out)?;
                out.push('\n');
            }
        }
        Ok(out)
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
}
