//! `devices`: where operations can run.

use clap::Args;
use serde_json::json;

use crate::failure::Failure;
use crate::output;

/// Flags of `devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// A JSON list
    #[arg(long)]
    json: bool,
}

/// Runs the command.
pub fn run(args: &DevicesArgs) -> Result<(), Failure> {
    let adapters = moeflux_gpu::adapters();
    if args.json {
        let list = adapters.iter().enumerate().map(|(number, adapter)| {
            json!({
                "device": format!("gpu:{number}"),
                "name": adapter.name,
                "api": adapter.api,
                "driver": adapter.driver,
                "software": adapter.is_software,
            })
        });
        return output::json(&list.collect());
    }
    output::line("cpu    the processor")?;
    for (number, adapter) in adapters.iter().enumerate() {
        let software = match adapter.is_software {
            true => ", computed by the processor: for tests",
            false => "",
        };
        output::line(&format!(
            "gpu:{number}  {} ({}, {}{software})",
            adapter.name, adapter.api, adapter.driver
        ))?;
    }
    if adapters.is_empty() {
        output::note("no graphics processor with a Vulkan, Metal or DX12 driver was found");
    }
    Ok(())
}
