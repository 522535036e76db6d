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
        "the device has no {bytes_wanted} bytes of memory left for {what}; lower --gpu-memory or \
         --context"
    )]
    OutOfMemory {
        /// What it was wanted for.
        what: &'static str,
        /// How much.
        bytes_wanted: u64,
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
    /// An operation that the kernels do not have in this form.
    #[error("{op}: {problem}; use --device cpu")]
    Unsupported {
        /// The operation.
        op: &'static str,
        /// What about it.
        problem: String,
    },
}

impl From<GpuError> for Error {
    fn from(error: GpuError) -> Error {
        Error::Device(Box::new(error))
    }
}
