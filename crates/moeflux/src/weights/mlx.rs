//! What MLX changes about a checkpoint beside its numbers: convolutions are stored with channels
//! last, and norms whose checkpoint holds the weight minus one have the one added. (Its tensors of
//! all experts and its affine groups are found by their names: `experts.rs`, `find.rs`.)

use super::files::ModelFiles;
use crate::models::{Blueprint, VectorFold, WeightKind};

/// Gives `blueprint` the forms of a checkpoint that MLX has written, if `files` are one.
pub(crate) fn adapt(blueprint: &mut Blueprint, files: &ModelFiles) {
    let mut found = false;
    for weight in &mut blueprint.weights {
        let WeightKind::Vector { shape, fold } = &mut weight.kind else {
            continue;
        };
        let &mut [channels, 1, kernel] = shape.as_mut_slice() else {
            continue;
        };
        let name = files.full_name(&weight.name);
        let stored = files.dense().get(&name).map(|info| info.shape.as_slice());
        if *fold == VectorFold::TransposeConv && stored == Some(&[channels, kernel, 1]) {
            *shape = vec![channels, kernel, 1];
            found = true;
        }
    }
    if !found {
        return;
    }
    for weight in &mut blueprint.weights {
        if let WeightKind::Vector { fold, .. } = &mut weight.kind
            && *fold == VectorFold::AddOne
        {
            *fold = VectorFold::None;
        }
    }
}
