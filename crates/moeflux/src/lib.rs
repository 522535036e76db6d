//! Runs Mixture-of-Experts language models far larger than memory.
