//! The shortest time that the hardware allows for a test, and which part of it sets that.

use moeflux::cost::{OpCost, ProductKind, StepShape, Work};
use moeflux::kernels::MemoryRate;
use moeflux::{Engine, KernelRate};

/// What the processor with a number of threads, or a graphics processor, can do at best.
pub struct Machine {
    pub memory: MemoryRate,
    /// Of a processor in f32, from registers alone; of a device, of its product with many vectors.
    pub float_multiply_adds_per_second: f64,
    /// Of the engine's matrix kernels; none of a device, whose products take the rate above.
    pub kernels: Vec<KernelRate>,
    /// Bytes a second from the host's memory to a device's.
    pub transfer: Option<f64>,
}

impl Machine {
    /// A device with these rates.
    pub fn of_device(rates: DeviceRates) -> Machine {
        let memory = rates.memory_bytes_per_second;
        Machine {
            memory: MemoryRate {
                best: memory,
                median: memory,
            },
            float_multiply_adds_per_second: rates.multiply_adds_per_second,
            kernels: Vec::new(),
            transfer: Some(rates.transfer_bytes_per_second),
        }
    }

    /// Takes over rates that were measured again, where they are higher.
    pub fn raise(&mut self, again: &[KernelRate]) {
        for (kernel, again) in self.kernels.iter_mut().zip(again) {
            if again.multiply_adds_per_second > kernel.multiply_adds_per_second {
                *kernel = *again;
            }
        }
    }

    /// Multiply-adds a second of one kind of product; of a kind that could not be measured, those
    /// of the fastest one.
    fn rate(&self, kind: ProductKind) -> f64 {
        let measured = self.kernels.iter().find(|k| k.kind == kind);
        let fastest = || {
            let rates = self.kernels.iter().map(|k| k.multiply_adds_per_second);
            rates.fold(self.float_multiply_adds_per_second, f64::max)
        };
        measured.map_or_else(fastest, |k| k.multiply_adds_per_second)
    }

    fn compute_seconds(&self, op: &OpCost, step: StepShape, work: &Work) -> f64 {
        let rows = op.rows(step) as f64;
        let products = op.products.iter();
        let products = products.map(|&(kind, size)| rows * size as f64 / self.rate(kind));
        products.sum::<f64>() + work.float_multiply_adds / self.float_multiply_adds_per_second
    }
}

/// What a graphics processor does at best.
#[derive(Clone, Copy, Debug)]
pub struct DeviceRates {
    /// Read from its memory by a kernel.
    pub memory_bytes_per_second: f64,
    /// Of products with many vectors.
    pub multiply_adds_per_second: f64,
    /// Copied from the host's memory.
    pub transfer_bytes_per_second: f64,
}

/// Seconds that each resource needs for a test at least.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Floor {
    pub memory_seconds: f64,
    pub compute_seconds: f64,
    pub disk_seconds: f64,
    /// Of experts on their way to a device.
    pub transfer_seconds: f64,
    /// Bytes of weights and state that memory has to deliver.
    pub bytes: f64,
}

impl Floor {
    /// The floor of `steps`, without reads from disk and what is brought to a device.
    pub fn of(engine: &Engine, machine: &Machine, steps: impl Iterator<Item = StepShape>) -> Floor {
        let (mut bytes, mut compute_seconds) = (0.0, 0.0);
        for step in steps {
            for op in engine.costs() {
                let work = op.work(step);
                bytes += work.bytes;
                compute_seconds += machine.compute_seconds(op, step, &work);
            }
        }
        Floor {
            memory_seconds: bytes / machine.memory.best,
            compute_seconds,
            disk_seconds: 0.0,
            transfer_seconds: 0.0,
            bytes,
        }
    }

    /// The longest of them, and its name.
    pub fn limit(&self) -> (f64, &'static str) {
        let mut limit = (self.memory_seconds, "memory");
        for other in [
            (self.compute_seconds, "compute"),
            (self.disk_seconds, "disk"),
            (self.transfer_seconds, "transfer"),
        ] {
            if other.0 > limit.0 {
                limit = other;
            }
        }
        limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_resource_sets_the_floor() {
        let mut floor = Floor {
            memory_seconds: 2.0,
            compute_seconds: 1.0,
            disk_seconds: 0.0,
            transfer_seconds: 0.0,
            bytes: 0.0,
        };
        assert_eq!(floor.limit(), (2.0, "memory"));
        floor.compute_seconds = 3.0;
        assert_eq!(floor.limit(), (3.0, "compute"));
        floor.disk_seconds = 4.0;
        assert_eq!(floor.limit(), (4.0, "disk"));
        floor.transfer_seconds = 5.0;
        assert_eq!(floor.limit(), (5.0, "transfer"));
    }
}
