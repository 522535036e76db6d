//! `devices`: where operations can run.

use clap::Args;
use serde_json::json;

use crate::device::Device;
use crate::failure::Failure;
use crate::output;

/// Flags of `devices`.
#[derive(Debug, Args)]
pub struct DevicesArgs {
    /// A JSON list
    #[arg(long)]
    json: bool,
    /// Compute cases of every operation on a device and hold the results to the processor's: a minute
    /// or a few. Without DEVICE the best there is [possible: auto, gpu, gpu:N]
    #[arg(long, value_name = "DEVICE", num_args = 0..=1, require_equals = true,
          default_missing_value = "gpu", value_parser = |name: &str| name.parse::<Device>())]
    self_test: Option<Device>,
}

/// Runs the command.
pub fn run(args: &DevicesArgs) -> Result<(), Failure> {
    if let Some(device) = args.self_test {
        return super::self_test::run(device, args.json);
    }
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
