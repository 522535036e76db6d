//! State that a backend keeps in memory of its own, such as a graphics processor's.

use std::any::Any;
use std::fmt::Debug;

use moeflux_kernels::KvType;

use crate::Error;
use crate::graph::StateDecl;

/// Makes sessions' state where a backend keeps it.
pub trait RemoteStates: Send + Sync + Debug {
    /// The device, its driver and whatever else decides the bits of what it computes.
    fn device(&self) -> String;

    /// A piece of state that takes no memory yet and counts as all zeros.
    fn make(&self, decl: &StateDecl, kv_type: KvType) -> Box<dyn RemoteState>;
}

/// One layer's state of one session, in memory that the host does not see.
pub trait RemoteState: Send + Sync + Debug {
    /// Makes room for keys and values of `end` positions, or for the recurrent state.
    ///
    /// # Errors
    /// If there is no memory; what was there stays.
    fn reserve(&mut self, end: usize) -> Result<(), Error>;

    /// What a step wrote beside the current recurrent state becomes the current one.
    fn commit(&mut self);

    /// Takes the last committed step back: the recurrent state becomes the one before it.
    fn undo(&mut self);

    /// The state of the first `positions` positions (those that a window shows, if it has one), as
    /// [`Session::state_values`](super::Session::state_values) has it.
    ///
    /// # Errors
    /// If the device is lost.
    fn values(&self, positions: usize) -> Result<Vec<f32>, Error>;

    /// Takes `values`, in the same form; `None`: all zeros.
    ///
    /// # Errors
    /// If there is no memory, or `values` has another length.
    fn set(&mut self, positions: usize, values: Option<&[f32]>) -> Result<(), Error>;

    /// For the backend that made it.
    fn as_any(&mut self) -> &mut dyn Any;
}
