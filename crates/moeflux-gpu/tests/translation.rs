//! Every kernel with every set of parameters as Metal gets it: read as text and as naga's module,
//! since tests run on Vulkan only.

#![allow(clippy::panic)]

use moeflux_gpu::{IMMEDIATE_BYTES, Param, Shader, ops};
use naga::back::msl;
use naga::proc::Layouter;
use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, Scalar, ScalarKind, TypeInner};

/// Workgroup memory of every Apple processor.
const WORKGROUP_BYTES: u32 = 32 << 10;
/// Threads of a workgroup, and bindings, that every device allows.
const THREADS: u32 = 256;
const BINDINGS: u32 = 8;
/// What devices need to have.
const CAPABILITIES: Capabilities = Capabilities::IMMEDIATES
    .union(Capabilities::SUBGROUP)
    .union(Capabilities::SHADER_FLOAT16_IN_FLOAT32)
    .union(Capabilities::SHADER_FLOAT16)
    .union(Capabilities::COOPERATIVE_MATRIX);

/// Kernels for other matrix units than Metal's: those of Vulkan's are translated to SPIR-V when
/// they are compiled, here they are checked as modules.
#[test]
fn kernels_for_large_matrix_units_are_valid() {
    let all = [ops::matmul::unit_kernels(16), ops::attention_unit_kernels()];
    for (shader, sets) in all {
        for params in &sets {
            translated(shader, params, &format!("{} {params:?}", shader.name));
        }
    }
}

fn each(mut check: impl FnMut(&str, &Module, &ModuleInfo)) {
    // Kernels are known by their names.
    let mut known: Vec<&'static Shader> = Vec::new();
    for (shader, sets) in ops::all_kernels() {
        let name = shader.name;
        assert!(!sets.is_empty(), "{name} has no parameters");
        let mut others = known.iter().filter(|other| !std::ptr::eq(**other, shader));
        assert!(
            others.all(|other| other.name != name),
            "two kernels are named {name}"
        );
        known.push(shader);
        for params in &sets {
            let what = format!("{name} {params:?}");
            let (module, info) = translated(shader, params, &what);
            check(&what, &module, &info);
        }
    }
}

fn translated(shader: &Shader, params: &[Param], what: &str) -> (Module, ModuleInfo) {
    let text = shader.text(params).expect("all parameters are given");
    let module = naga::front::wgsl::parse_str(&text)
        .unwrap_or_else(|e| panic!("{what}: {}", e.emit_to_string(&text)));
    let info = Validator::new(ValidationFlags::all(), CAPABILITIES)
        .validate(&module)
        .unwrap_or_else(|e| panic!("{what}: {}", e.emit_to_string(&text)));
    (module, info)
}

#[test]
fn metal_has_every_type_and_function() {
    let options = msl::Options {
        lang_version: (2, 4),
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..Default::default()
    };
    let pipeline = msl::PipelineOptions::default();
    each(|what, module, info| {
        let (text, _) = msl::write_string(module, info, &options, &pipeline)
            .unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(
            text.contains("kernel void main_("),
            "{what}: no kernel in\n{text}"
        );
        // Types that Metal's language does not have, and widths of subgroups.
        for word in ["16x16", "double", "long", "uint64", "threads_per_simdgroup"] {
            assert!(!text.contains(word), "{what}: `{word}` in\n{text}");
        }
    });
}

#[test]
fn numbers_are_of_32_bits_or_binary16() {
    each(|what, module, _| {
        for (_, ty) in module.types.iter() {
            let (TypeInner::Scalar(scalar)
            | TypeInner::Vector { scalar, .. }
            | TypeInner::Matrix { scalar, .. }) = ty.inner
            else {
                continue;
            };
            let Scalar { kind, width } = scalar;
            let known = match kind {
                ScalarKind::Bool => true,
                ScalarKind::Sint | ScalarKind::Uint => width == 4,
                ScalarKind::Float => matches!(width, 2 | 4),
                _ => false,
            };
            assert!(known, "{what}: {scalar:?}");
        }
    });
}

#[test]
fn kernels_fit_every_device() {
    each(|what, module, _| {
        let mut layouter = Layouter::default();
        layouter.update(module.to_ctx()).expect("types have sizes");
        let bytes = |space: AddressSpace| -> u32 {
            let globals = module.global_variables.iter();
            let of_space = globals.filter(|(_, global)| global.space == space);
            of_space.map(|(_, global)| layouter[global.ty].size).sum()
        };
        let shared = bytes(AddressSpace::WorkGroup);
        assert!(
            shared <= WORKGROUP_BYTES,
            "{what}: {shared} bytes of workgroup memory"
        );
        let immediates = bytes(AddressSpace::Immediate);
        assert!(
            immediates <= IMMEDIATE_BYTES,
            "{what}: {immediates} bytes of immediates"
        );
        let [entry] = &module.entry_points[..] else {
            panic!("{what}: {} entry points", module.entry_points.len());
        };
        let threads: u32 = entry.workgroup_size.iter().product();
        assert!(threads <= THREADS, "{what}: {threads} threads");
    });
}

/// Bindings are numbered by the order of views, and one that is not used would not be there.
#[test]
fn all_that_is_bound_is_used() {
    each(|what, module, info| {
        let used = info.get_entry_point(0);
        let mut numbers = Vec::new();
        for (handle, global) in module.global_variables.iter() {
            assert!(
                !used[handle].is_empty(),
                "{what}: {:?} is not used",
                global.name
            );
            let Some(binding) = &global.binding else {
                continue;
            };
            assert_eq!(binding.group, 0, "{what}");
            numbers.push(binding.binding);
        }
        numbers.sort_unstable();
        let count = numbers.len() as u32;
        assert!(count <= BINDINGS, "{what}: {count} bindings");
        assert_eq!(numbers, (0..count).collect::<Vec<_>>(), "{what}: bindings");
    });
}
