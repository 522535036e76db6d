//! Kernels as text: WGSL with parameters filled in.
//!
//! `${NAME}` stands for a parameter's value. Lines between `//#if NAME` and `//#else` or
//! `//#endif` are kept where the parameter is there and not 0; conditions nest. After a line
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

/// A parameter of a kernel.
pub type Param = (&'static str, u32);

impl Shader {
    /// The kernel's text with these parameters.
    ///
    /// # Errors
    /// [`GpuError::Refused`] for a parameter that is not given.
    pub fn text(&self, params: &[Param]) -> Result<String, GpuError> {
        let mut out = String::new();
        let mut form = Names::first(params);
        // For each condition that holds this line: whether its lines are kept.
        let mut kept: Vec<bool> = Vec::new();
        for line in self.parts.iter().flat_map(|part| part.lines()) {
            let command = line.trim();
            if let Some(name) = command.strip_prefix("//#if ") {
                kept.push(form.holds(name.trim()));
            } else if command == "//#else" {
                if let Some(last) = kept.last_mut() {
                    *last = !*last;
                }
            } else if command == "//#endif" {
                kept.pop();
            } else if let Some(names) = command.strip_prefix("//#form ") {
                let (letter, binding) = names.split_once(' ').unwrap_or((names, "m"));
                (form.letter, form.binding) = (letter, binding);
            } else if kept.iter().all(|&keep| keep) {
                self.fill(line, &form, &mut out)?;
                out.push('\n');
            }
        }
        Ok(out)
    }

    fn fill(&self, line: &str, form: &Names<'_>, out: &mut String) -> Result<(), GpuError> {
        let mut rest = line;
        while let Some((before, after)) = rest.split_once("${") {
            let (name, behind) = after.split_once('}').unwrap_or((after, ""));
            out.push_str(before);
            match (name, form.value(name)) {
                ("F", _) => out.push_str(form.letter),
                ("M", _) => out.push_str(form.binding),
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
        let found = self.params.iter().find(|(known, _)| {
            let own = known.strip_prefix(self.letter);
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
        let two = Shader {
            name: "two",
            parts: &["f${F} ${M} ${N}", "//#form B other", "f${F} ${M} ${N}"],
        };
        let text = two.text(&[("N", 1), ("BN", 2)]);
        assert_eq!(text.expect("all are given"), "f m 1\nfB other 2\n");
    }
}
