//! Message-signalled interrupts, end to end: a guest's driver reads a GICv2m frame, gives a device its messages, and takes
//! an interrupt for each. Uses `/dev/gunyah`, or a fake kernel where there is none.

mod demo;

use std::error::Error;
use std::path::Path;

use fake_gunyah::{Fake, Guest};
use vmm_adapter::gunyah::Gunyah;

fn main() -> Result<(), Box<dyn Error>> {
    if Path::new(Gunyah::DEFAULT_PATH).exists() {
        return run();
    }
    println!("this host has no {}: using a fake Gunyah kernel in this process", Gunyah::DEFAULT_PATH);
    Fake::builder().guest(Guest::code()).build()?.run(|_| run().map_err(|error| error.to_string()))??;
    Ok(())
}

fn run() -> Result<(), Box<dyn Error>> {
    let taken = demo::run(&Gunyah::open()?, &|line| println!("{line}"))?;
    println!("{} interrupts arrived", taken.len());
    Ok(())
}
