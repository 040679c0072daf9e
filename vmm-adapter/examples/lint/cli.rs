//! The command line.

use std::path::PathBuf;

use clap::Parser;
use clap::builder::PossibleValuesParser;
use vmm_adapter::fdt::lint::{Expect, ExpectedRegion};
use vmm_adapter::{IrqLine, Sharing};

/// Checks a guest's devicetree for Gunyah: whether the Resource Manager will start it, and what will go wrong then.
///
/// Any VMM's tree will do, on any machine. Alone, the tree is checked against itself; the options tell what the VMM does
/// beside it.
#[derive(Clone, Debug, Parser)]
#[command(name = "lint", version, after_help = AFTER_HELP)]
pub(crate) struct Options {
    /// The devicetree, as a blob (.dtb)
    #[arg(value_name = "FILE", required_unless_present = "rules")]
    pub(crate) file: Option<PathBuf>,

    /// Write JSON: an array of findings
    #[arg(long)]
    pub(crate) json: bool,

    /// List every rule instead
    #[arg(long, conflicts_with = "file")]
    pub(crate) rules: bool,

    /// Only what holds on this flavour or host, and what it refuses as an error
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(FLAVOURS))]
    flavour: Option<String>,

    /// A region of guest memory that the VMM gives; may be repeated
    #[arg(long = "region", value_name = "LABEL:ADDR:SIZE:shared|lent", value_parser = region)]
    regions: Vec<ExpectedRegion>,

    /// A line that the VMM signals by irqfd; may be repeated
    #[arg(long = "line", value_name = "LABEL:edge|level", value_parser = line)]
    lines: Vec<IrqLine>,

    /// How many vCPUs the VMM adds
    #[arg(long, value_name = "N")]
    vcpus: Option<u32>,

    /// The guest address of the tree. FILE is then all that is handed over, with the room behind the tree
    #[arg(long, value_name = "ADDR", value_parser = number)]
    fdt: Option<u64>,

    /// The guest address of the first instruction
    #[arg(long, value_name = "ADDR", value_parser = number)]
    entry: Option<u64>,

    /// The VM has firmware, which runs first
    #[arg(long)]
    firmware: bool,
}

const FLAVOURS: [&str; 8] =
    ["v11", "android14-early", "android14", "android15", "android16", "v17", "open-2023", "open-2023-debug"];

const AFTER_HELP: &str = "\
Numbers are decimal, or hexadecimal with 0x.

Exit codes:
    0  no error was found; there may be warnings
    1  errors were found
    2  the file cannot be read, or the command line is wrong

Examples:
  lint guest.dtb
  lint --flavour android14 --vcpus 2 --line 0:edge --region 0:0x80000000:0x10000000:lent guest.dtb
  microvm --dtb guest.dtb && lint guest.dtb";

impl Options {
    pub(crate) fn expect(&self) -> Expect {
        let mut expect = Expect::default();
        expect.flavour.clone_from(&self.flavour);
        expect.regions.clone_from(&self.regions);
        expect.lines.clone_from(&self.lines);
        (expect.vcpus, expect.fdt, expect.entry) = (self.vcpus, self.fdt, self.entry);
        expect.firmware = self.firmware;
        expect
    }
}

fn number(text: &str) -> Result<u64, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| format!("{text:?} is no number; write 4096 or 0x1000"))
}

fn region(text: &str) -> Result<ExpectedRegion, String> {
    let parts: Vec<_> = text.split(':').collect();
    let &[label, addr, size, sharing] = &parts[..] else {
        return Err("write LABEL:ADDR:SIZE:shared or LABEL:ADDR:SIZE:lent".to_owned());
    };
    let label = u32::try_from(number(label)?).map_err(|_| format!("the label {label} is too large"))?;
    let sharing = match sharing {
        "shared" => Sharing::Shared,
        "lent" => Sharing::Private,
        other => return Err(format!("{other:?} is neither shared nor lent")),
    };
    Ok(ExpectedRegion { label, addr: number(addr)?, size: number(size)?, sharing })
}

fn line(text: &str) -> Result<IrqLine, String> {
    let (label, trigger) = text.split_once(':').ok_or("write LABEL:edge or LABEL:level")?;
    let label = u32::try_from(number(label)?).map_err(|_| format!("the label {label} is too large"))?;
    match trigger {
        "edge" => Ok(IrqLine::edge(label)),
        "level" => Ok(IrqLine::level(label)),
        other => Err(format!("{other:?} is neither edge nor level")),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn what_the_vmm_does_can_be_told() {
        let words = "lint --region 1:0x80000000:4096:lent --line 5:level --vcpus 2 --flavour v17 x.dtb";
        let expect = Options::parse_from(words.split(' ')).expect();
        let region = ExpectedRegion { label: 1, addr: 0x8000_0000, size: 4096, sharing: Sharing::Private };
        assert_eq!((expect.regions, expect.lines), (vec![region], vec![IrqLine::level(5)]));
        assert_eq!((expect.vcpus, expect.flavour.as_deref()), (Some(2), Some("v17")));
        for wrong in
            ["--region 1:2:3", "--region a:0:0:lent", "--region 0:0:0:mine", "--line 1", "--line 1:up"]
        {
            let words = format!("lint {wrong} x.dtb");
            assert!(Options::try_parse_from(words.split(' ')).is_err(), "{wrong}");
        }
    }
}
