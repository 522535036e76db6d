//! What can go wrong with a device.

use moeflux::Error;

/// What can go wrong with a device.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GpuError {
    /// There is no adapter to use.
    #[error(
        "no graphics processor was found ({looked_for}); install its driver, or use --device cpu"
    )]
    NoAdapter {
        /// What was asked for.
        looked_for: String,
    },
    /// The adapter cannot do what the kernels need.
    #[error("{adapter} lacks {feature}, which the kernels need; use --device cpu")]
    Lacks {
        /// The adapter's name.
        adapter: String,
        /// What it lacks.
        feature: String,
    },
    /// The driver refused to open the device.
    #[error("{adapter} could not be opened: {problem}; use --device cpu")]
    Open {
        /// The adapter's name.
        adapter: String,
        /// The driver's words.
        problem: String,
    },
    /// No device memory.
    #[error(
        "the device has no {bytes_wanted} bytes of memory left for {what} ({in_use} are in use, \
         {experts} of them for experts); {}", advice(*bytes_wanted, *experts)
    )]
    OutOfMemory {
        /// What it was wanted for.
        what: &'static str,
        /// How much.
        bytes_wanted: u64,
        /// Bytes in use.
        in_use: u64,
        /// Bytes of those that hold experts.
        experts: u64,
    },
    /// Less memory for experts than those of a token need.
    #[error(
        "{given} bytes of the device's memory for experts are too few: a token's in all layers \
         take {least}; raise --gpu-memory to that, or use --device cpu"
    )]
    Budget {
        /// What was given.
        given: u64,
        /// The least that works.
        least: u64,
    },
    /// Experts that cannot be computed on both.
    #[error(
        "--cpu-experts needs experts of integers without biases, which layer {layer} does not have; \
         leave it out"
    )]
    CpuExperts {
        /// The layer.
        layer: usize,
    },
    /// A buffer larger than the device binds at once.
    #[error(
        "{what} takes {bytes} bytes, the device binds at most {limit} at once; use --device cpu"
    )]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// How much it takes.
        bytes: u64,
        /// The device's limit.
        limit: u64,
    },
    /// The device is gone: a driver reset, or it was taken out.
    #[error(
        "the device was lost: {problem}; go on from the session's last snapshot, or on the cpu"
    )]
    Lost {
        /// The driver's words.
        problem: String,
    },
    /// A command that the device refused: a defect.
    #[error("the device refused a command ({problem}); please report this")]
    Refused {
        /// The driver's words.
        problem: String,
    },
    /// Results that are not the operation's.
    #[error(
        "{adapter} computes wrong results ({problem}); use --device cpu, and please report this"
    )]
    Wrong {
        /// The adapter's name.
        adapter: String,
        /// What is wrong.
        problem: String,
    },
    /// An operation that the kernels do not have in this form.
    #[error("{op}: {problem}; use --device cpu")]
    Unsupported {
        /// The operation.
        op: &'static str,
        /// What about it.
        problem: String,
    },
}

/// What makes room for so many bytes.
fn advice(bytes_wanted: u64, experts: u64) -> String {
    // What experts give back must be enough for this and as much again beside it.
    match experts.checked_sub(bytes_wanted.saturating_mul(2)) {
        Some(bytes) if bytes > 0 => format!("try --gpu-memory {bytes}, or a shorter --context"),
        _ => "try a shorter --context, or use --device cpu".to_owned(),
    }
}

impl From<GpuError> for Error {
    fn from(error: GpuError) -> Error {
        Error::Device(Box::new(error))
    }
}
