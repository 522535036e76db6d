//! Operations on elements against the reference.

mod common;

use common::{close, gpu, poisoned, random, upload};
use moeflux_gpu::{GpuError, Recorder, View, ops};
use moeflux_kernels::reference;

type Op = fn(&mut Recorder, View<'_>, View<'_>, View<'_>) -> Result<(), GpuError>;
type Host = fn(&[f32], &[f32], &mut [f32]) -> Result<(), moeflux_kernels::KernelError>;

#[test]
fn elements_are_those_of_the_reference() {
    let gpu = gpu();
    let ops: [(&str, Op, Host); 3] = [
        ("add", ops::add, reference::add),
        ("swiglu", ops::swiglu, reference::swiglu),
        ("sigmoid_mul", ops::sigmoid_mul, reference::sigmoid_mul),
    ];
    for (name, op, host) in ops {
        for len in [4, 256, 1000, 70_000] {
            let mut recorder = Recorder::new(gpu.clone());
            let (a, b) = (random(1, len), random(2, len));
            let a: Vec<f32> = a.iter().map(|v| v * 30.0).collect();
            let mut expected = vec![0.0; len];
            host(&a, &b, &mut expected).expect("lengths agree");
            let (a, b, out) = (upload(&gpu, &a), upload(&gpu, &b), poisoned(&gpu, len));
            op(&mut recorder, (&a).into(), (&b).into(), (&out).into()).expect("it runs");
            let bytes = recorder.read(&[(&out).into()]).expect("it can be read");
            close(bytemuck::cast_slice(&bytes), &expected, 1e-6, name);
        }
    }
}

#[test]
fn one_gate_scales_a_row() {
    let gpu = gpu();
    let (n, width) = (7, 36);
    let (x, gate) = (random(3, n * width), random(4, n));
    let mut expected = vec![0.0; n * width];
    reference::scale_by_sigmoid(&x, &gate, &mut expected).expect("lengths agree");
    let (x, gate) = (upload(&gpu, &x), upload(&gpu, &gate));
    let out = poisoned(&gpu, n * width);
    let mut recorder = Recorder::new(gpu);
    let (x, gate, view) = ((&x).into(), (&gate).into(), (&out).into());
    ops::scale_by_sigmoid(&mut recorder, x, gate, view, width as u32).expect("it runs");
    let bytes = recorder.read(&[(&out).into()]).expect("it can be read");
    close(
        bytemuck::cast_slice(&bytes),
        &expected,
        1e-6,
        "scale_by_sigmoid",
    );
}
