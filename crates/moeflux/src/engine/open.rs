//! Opening a model: everything that an [`Engine`] consists of is made here.

use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use moeflux_experts::{
    Catalog, DiskProfile, ReaderChoice, ReaderKind, Residency, ResidencyOptions,
};
use moeflux_kernels::Isa;

use super::governor::Governor;
use super::pace::Pace;
use super::warm_start::{Record, WarmStart};
use super::{Engine, Executor, budget};
use crate::backend::ExpertStage;
use crate::cost;
use crate::graph::BufferPool;
use crate::info::Opened;
use crate::memory::LimitWatch;
use crate::session::SessionShape;
use crate::weights::Weights;
use crate::{EngineOptions, Error};

/// Threads that read experts where no profile of the disk says how many; they wait for the disk,
/// so there may be more than cores.
pub(super) const READ_THREADS: usize = 8;

impl Engine {
    /// Opens the model at `path`: a packed directory, a Hugging Face one, or a GGUF file (its first
    /// part, or a directory that holds just one).
    ///
    /// # Errors
    /// Anything missing, damaged or unsupported about the model, or a memory budget that is too
    /// small; the message names the file, field or flag.
    pub fn open(path: &Path, options: &EngineOptions) -> Result<Engine, Error> {
        let opened = Opened::open(path)?;
        let info = opened.info(options.kv);
        let context_tokens = options.context_tokens(&info)?;
        let isa = options.isa.unwrap_or_else(Isa::detect);
        let threads = options.thread_count()?;
        let backend = options.backend(isa, threads)?;
        let plan = budget::plan(&opened, options, READ_THREADS)?;
        let shape = Arc::new(SessionShape {
            identity: opened.files.identity(&opened.config)?,
            states: opened.blueprint.graph.states.clone(),
            kv_type: options.kv,
            context_tokens,
            state_bytes: Arc::new(AtomicU64::new(0)),
            remote: backend.states(),
        });
        let mut weights = Weights::load(&opened.files, &opened.blueprint, &options.reader)?;
        if options.lock_weights {
            weights.lock();
        }
        let costs = cost::of(
            &opened.blueprint,
            &weights,
            &opened.table.layouts,
            options.kv,
        );
        let Opened {
            blueprint, table, ..
        } = opened;
        let (catalog, layouts) = (table.catalog, table.layouts);
        let mut residency = open_residency(catalog, plan.arena_bytes, options)?;
        if let Some(trace) = &options.trace {
            let name = path.file_name().unwrap_or(path.as_os_str());
            let name = name.to_string_lossy();
            residency.trace_to(trace, &name, shape.identity, info.top_k)?;
        }
        let graph = blueprint.graph;
        let room = plan.first_room();
        let record = options.warm_start.then(|| {
            let token_uses = info.moe_layers * info.top_k;
            Record::open(path, shape.identity, token_uses, &mut residency)
        });
        let executor = Arc::new(Mutex::new(Executor {
            pace: Pace::new(plan.chunk_tokens, backend.cached_tokens()),
            backend,
            buffers: BufferPool::new(&graph, room.tokens, room.outputs),
            stage: ExpertStage::new(residency, layouts, options.lookahead),
            governor: Governor::new(plan.clone(), LimitWatch::new(options.system.clone())),
        }));
        let warm_start = record.map(|record| WarmStart::begin(record, &executor));
        let activations = options.activations;
        Ok(Engine {
            info,
            shape,
            graph,
            costs,
            weights,
            plan,
            isa,
            threads,
            activations,
            executor,
            warm_start,
            spare_logits: Mutex::default(),
        })
    }
}

/// The experts, with as much memory as they get.
fn open_residency(
    catalog: Catalog,
    arena_bytes: u64,
    options: &EngineOptions,
) -> Result<Residency, Error> {
    let profile = match (&options.reader, options.measure_disk) {
        (ReaderChoice::Kind(kind), true) if *kind != ReaderKind::Buffered => {
            DiskProfile::load_or_measure(&catalog.files, &mut |_| {})?
        }
        _ => None,
    };
    let options = ResidencyOptions {
        arena_bytes,
        policy: options.policy,
        reader: options.reader.clone(),
        read_threads: READ_THREADS,
        profile,
        verify: options.verify,
    };
    Ok(Residency::open(catalog, options)?)
}
