//! The least memory that routed experts need on the device.

use moeflux::Error;
use moeflux::backend::ExpertStage;
use moeflux::weights::{ExpertLayout, MatrixLayout};

use crate::GpuError;
use crate::matrix::Form;

/// The forms of an expert's gate, up and down.
pub(super) fn forms(layout: &ExpertLayout) -> Result<[Form; 3], Error> {
    let matrices = [&layout.gate, &layout.up, &layout.down];
    let end = matrices.map(MatrixLayout::end).into_iter().max();
    let empty = vec![0; end.unwrap_or(0)];
    let [gate, up, down] = matrices.map(|m| Ok::<_, Error>(Form::of(&m.view(&empty)?)));
    Ok([gate?, up?, down?])
}

/// Refuses a budget that does not hold the experts of a token in each layer, `of_token`; layers have
/// equal shares.
pub(super) fn check(stage: &ExpertStage, given: u64, of_token: usize) -> Result<(), Error> {
    let mut largest = 0;
    for layer in stage.layers() {
        let bytes: usize = forms(stage.layout(layer)?)?.iter().map(Form::bytes).sum();
        largest = largest.max(bytes as u64);
    }
    let least = largest * (of_token * stage.layers().count()) as u64;
    match given < least {
        true => Err(GpuError::Budget { given, least }.into()),
        false => Ok(()),
    }
}
