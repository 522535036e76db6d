//! CPU kernels in one canonical order, bit for bit equal on every instruction set, and their thread pool.
