//! `hob doctor`: the devices that models can run on here, and why others cannot be used.

use std::io::Write;

use hob::Device;
use hob::device::{Presence, devices};
use serde_json::json;

use crate::failure::Failure;
use crate::table::{Side, plain};
use crate::terminal::printable;
use crate::units;

const AFTER: &str = "\
Examples:
  hob doctor
  hob doctor --json | jq -r '.devices[] | select(.ready) | .device'";

/// Flags of `hob doctor`.
#[derive(clap::Args)]
#[command(after_help = AFTER)]
pub(crate) struct Args {
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// Runs `hob doctor`.
pub(crate) fn run(args: Args, out: &mut dyn Write) -> Result<(), Failure> {
    let devices = devices();
    if args.json {
        let device = |(device, presence): &(Device, Presence)| match presence {
            Presence::Ready { name, memory } => json!({
                "device": device.to_string(),
                "ready": true,
                "name": name,
                "memory_free": memory.map(|m| m.free),
                "memory_total": memory.map(|m| m.total),
            }),
            Presence::Absent(why) => json!({ "device": device.to_string(), "ready": false, "why": why }),
        };
        let all = json!({ "threads": hob::default_threads(), "devices": devices.iter().map(device).collect::<Vec<_>>() });
        serde_json::to_writer_pretty(&mut *out, &all).map_err(std::io::Error::from)?;
        writeln!(out)?;
        return Ok(());
    }
    writeln!(out, "Devices (--device)")?;
    let row = |(device, presence): &(Device, Presence)| {
        let (ready, about) = match presence {
            Presence::Ready { name, memory: None } => ("yes", name.clone()),
            Presence::Ready { name, memory: Some(memory) } => {
                ("yes", format!("{name}, {} of {} free", units::bytes(memory.free), units::bytes(memory.total)))
            }
            Presence::Absent(why) => ("no", why.clone()),
        };
        [device.to_string(), ready.to_owned(), printable(&about).into_owned()]
    };
    let rows: Vec<_> = devices.iter().map(row).collect();
    plain(out, [Side::Left, Side::Left, Side::Left], &rows)?;
    writeln!(out, "\nThreads on the CPU: {}", hob::default_threads())?;
    Ok(())
}
