//! Steps that find out layer by layer which experts are missing: while the device is on its way to a
//! layer's choices, what follows them is recorded already, up to the next layer's choices. When they
//! are known, the experts that are missing are sent on their way and all that was recorded behind.

use moeflux::Error;
use moeflux::graph::Op;

use super::super::decode::Work;
use super::super::{GpuBackend, wrong_op};
use super::Chosen;
use crate::recorder::Reading;

/// Choices of a layer that are on their way to the host.
pub(in crate::backend) struct Waiting {
    pub layer: usize,
    reading: Reading,
}

impl GpuBackend {
    /// Begins to read the choices that `op` asks for, all of which must have slots at once, and goes
    /// on to record what follows; `false` where that cannot be.
    pub(in crate::backend) fn begin_choices(
        &mut self,
        op: &Op,
        w: &mut Work<'_, '_>,
    ) -> Result<bool, Error> {
        let &Op::RequestExperts {
            ids,
            weights,
            top_k,
            layer,
        } = op
        else {
            return Err(wrong_op(op));
        };
        let slots = self.experts.open(&self.gpu, w.stage, (layer, top_k))?;
        if slots.is_complete() {
            return Ok(true);
        }
        if w.pool.len(ids) > slots.slots() {
            return Ok(false);
        }
        let views = [
            self.buffers.view(w.pool, ids)?,
            self.buffers.view(w.pool, weights)?,
        ];
        let reading = self.recorder.record_read(&views)?;
        self.end_choices(w)?;
        self.waiting = Some(Waiting { layer, reading });
        self.recorder.hold();
        Ok(true)
    }

    /// Waits for the choices that are on their way, if there are some, sends for the experts that are
    /// missing and has the device go on with what was recorded meanwhile.
    pub(in crate::backend) fn end_choices(&mut self, w: &mut Work<'_, '_>) -> Result<(), Error> {
        let Some(Waiting { layer, reading }) = self.waiting.take() else {
            return Ok(());
        };
        let r = &mut self.recorder;
        r.put_aside()?;
        let mut bytes = vec![0; reading.bytes() as usize];
        r.end_read(reading, &mut bytes)?;
        let (ids, weights) = bytes.split_at(bytes.len() / 2);
        let chosen = Chosen::new(
            layer,
            bytemuck::pod_collect_to_vec(ids),
            bytemuck::pod_collect_to_vec(weights),
        );
        let slots = self.experts.layer(layer)?;
        let (missing, counts) = chosen.missing(slots);
        if !missing.is_empty() {
            w.stage.residency.request(layer, &missing, &counts)?;
        }
        w.stage
            .residency
            .note(layer, &chosen.ids, &chosen.weights)?;
        self.experts.ensure(r, w.stage, layer, &chosen.experts)?;
        self.experts.tell(r, layer, None);
        r.go();
        Ok(())
    }

    /// Forgets what waits for choices, also where sending for experts has failed.
    pub(in crate::backend) fn forget_choices(&mut self) {
        self.waiting = None;
        self.recorder.forget_held();
    }
}
