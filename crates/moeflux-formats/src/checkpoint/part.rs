//! Some tensors of a checkpoint as a file of their own.

use std::path::{Path, PathBuf};

use super::{Checkpoint, READ_BYTES};
use crate::error::{Result, io_error};
use crate::writer::{SafetensorsWriter, TensorSpec};

impl Checkpoint {
    /// Writes the tensors `names` to a safetensors file of their own, whole or not at all.
    ///
    /// # Errors
    /// No such tensor, or a failed read or write.
    pub fn write_part(&self, names: &[&str], path: &Path) -> Result<()> {
        let infos = names.iter().map(|name| self.require(name));
        let infos = infos.collect::<Result<Vec<_>>>()?;
        let specs = names.iter().zip(&infos);
        let specs =
            specs.map(|(&name, info)| TensorSpec::new(name, info.dtype, info.shape.clone()));
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let specs: Vec<TensorSpec> = specs.collect();
        let mut writer = SafetensorsWriter::create(&partial, &specs, 8)?;
        let mut buffer = vec![0; READ_BYTES];
        for info in infos {
            for first in (0..info.bytes).step_by(READ_BYTES) {
                let length = (info.bytes - first).min(READ_BYTES as u64) as usize;
                self.read(info, first, &mut buffer[..length])?;
                writer.write(&buffer[..length])?;
            }
        }
        writer.finish()?;
        std::fs::rename(&partial, path).map_err(|error| io_error("rename", &partial, error))
    }
}
