//! Where a checkpoint has the matrices of each routed expert, in every form that it may be in.

use moeflux_formats::{
    BlockCodec, Checkpoint, Codec, CodedSource, ElementSteps, GlobalScale, MatrixSource,
};

use crate::Error;
use crate::info::Opened;
use crate::models::ExpertLayer;
use crate::weights::{
    Apart, MatrixTensors, Stack, find_matrix, find_stack, plain_codec, stacks, switched,
};

/// The experts of a layer in a checkpoint that was opened, so that types and shapes are checked.
pub(super) struct ExpertSources<'a> {
    files: &'a Checkpoint,
    layer: &'a ExpertLayer,
    /// What the tensors' names begin with.
    name: String,
    form: Form,
}

enum Form {
    /// Transposed, rows of gate and up in turn, in two tensors of all experts.
    Turned,
    /// MXFP4 with exponents apart, rows of gate and up in turn.
    Apart,
    /// Tensors of all experts, of one matrix or two below each other.
    Stacks(Vec<Stack>),
    /// MLX's: tensors of all experts in any codec, by what their names begin with.
    Switched(String),
    /// Each expert has its own tensors.
    Each,
}

impl<'a> ExpertSources<'a> {
    pub(super) fn find(opened: &'a Opened, layer: &'a ExpertLayer) -> Self {
        let files = opened.files.dense();
        let name = opened.files.full_name(&layer.name);
        let has = |suffix: &str| files.get(&format!("{name}{suffix}")).is_some();
        let form = if has(".gate_up_proj_blocks") {
            Form::Apart
        } else if layer.is_turned && has(".gate_up_proj") {
            Form::Turned
        } else if let Some(switched) = switched(files, &name) {
            Form::Switched(switched)
        } else if let Some(stacks) = stacks(files, &name) {
            Form::Stacks(stacks)
        } else {
            Form::Each
        };
        Self {
            files,
            layer,
            name,
            form,
        }
    }

    /// The codec and place of matrix `index` (gate, up, down) of an expert.
    pub(super) fn matrix(
        &self,
        expert: usize,
        index: usize,
        (rows, cols): (usize, usize),
    ) -> Result<(Codec, MatrixSource), Error> {
        let Self {
            files, layer, name, ..
        } = self;
        let elements = rows * cols;
        match &self.form {
            Form::Turned => {
                let source = self.turned(expert, index);
                let codec = plain_codec(files, &source.tensor, files.require(&source.tensor)?)?;
                Ok((codec, source))
            }
            Form::Apart => Ok(self.apart(expert, index)),
            Form::Stacks(stacks) => self.stacked(stacks, expert, index, elements),
            Form::Switched(switched) => {
                let part = ["gate_proj", "up_proj", "down_proj"][index];
                let full = format!("{switched}.{part}");
                let found = find_stack(files, &full, layer.experts, (rows, cols))?;
                Ok((found.codec, source_of(found, expert * elements)))
            }
            Form::Each => {
                let full = format!("{name}.{expert}.{}", layer.matrices[index]);
                let found = find_matrix(files, &full, rows, cols)?;
                Ok((found.codec, source_of(found, 0)))
            }
        }
    }

    fn stacked(
        &self,
        stacks: &[Stack],
        expert: usize,
        index: usize,
        elements: usize,
    ) -> Result<(Codec, MatrixSource), Error> {
        let mut before = index;
        for Stack { tensor, matrices } in stacks {
            if before >= *matrices {
                before -= matrices;
                continue;
            }
            let codec = plain_codec(self.files, tensor, self.files.require(tensor)?)?;
            let first = (expert * matrices + before) * elements;
            let source = MatrixSource::plain(tensor.clone(), first as u64);
            let coded = match codec {
                Codec::Block(_) => Some(CodedSource::of(codec)),
                _ => None,
            };
            return Ok((codec, MatrixSource { coded, ..source }));
        }
        let problem = format!("{} has no matrix {index}", self.name);
        Err(Error::Internal(problem))
    }

    /// All matrices are transposed; columns of gate and up lie in turn in `gate_up_proj`.
    fn turned(&self, expert: usize, index: usize) -> MatrixSource {
        let (hidden, inner) = (self.layer.hidden, self.layer.intermediate);
        let (suffix, first, row, col) = match index {
            0 | 1 => {
                let first = 2 * expert * hidden * inner + index;
                ("gate_up_proj", first, 2, 2 * inner)
            }
            _ => ("down_proj", expert * hidden * inner, 1, hidden),
        };
        MatrixSource {
            steps: Some(ElementSteps { row, col }),
            ..MatrixSource::plain(format!("{}.{suffix}", self.name), first as u64)
        }
    }

    fn apart(&self, expert: usize, index: usize) -> (Codec, MatrixSource) {
        let (hidden, inner) = (self.layer.hidden, self.layer.intermediate);
        let (both, first, row_step) = match index {
            0 | 1 => ("gate_up_proj", (2 * expert * inner + index) * hidden, 2),
            _ => ("down_proj", expert * hidden * inner, 1),
        };
        let codec = Codec::Block(BlockCodec::Mxfp4);
        let name = format!("{}.{both}", self.name);
        let coded = CodedSource {
            scales: Some(format!("{name}_scales")),
            row_step,
            ..CodedSource::of(codec)
        };
        let source = MatrixSource {
            coded: Some(coded),
            ..MatrixSource::plain(format!("{name}_blocks"), first as u64)
        };
        (codec, source)
    }
}

/// The source of a matrix in any form, from one of its elements on.
pub(super) fn source_of(found: MatrixTensors<'_>, first_element: usize) -> MatrixSource {
    let mut names = found.names.into_iter();
    let tensor = names.next().unwrap_or_default();
    let coded = CodedSource {
        scales: names.next(),
        ..CodedSource::of(found.codec)
    };
    let coded = match (found.codec, found.apart) {
        (Codec::F32 | Codec::F16 | Codec::Bf16, _) => None,
        (_, Some(Apart { divides })) => Some(CodedSource {
            global: names.next().map(|tensor| GlobalScale { tensor, divides }),
            ..coded
        }),
        (_, None) => Some(CodedSource {
            biases: names.next(),
            ..coded
        }),
    };
    MatrixSource {
        coded,
        ..MatrixSource::plain(tensor, first_element as u64)
    }
}
