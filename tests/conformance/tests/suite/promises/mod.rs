//! The promises.

mod delivery;
mod exits;
mod interrupts;
mod io;
mod kicks;
mod kinds;
mod memory;
mod phases;
mod registers;
mod teardown;

use std::time::{Duration, Instant};

use vmm_adapter::Hypervisor;

use crate::target::Probe;

/// Something that the traits promise, and the test of it.
pub struct Promise {
    pub name: &'static str,
    pub check: fn(&dyn Hypervisor, &Probe),
}

macro_rules! promises {
    ($($module:ident::$name:ident),* $(,)?) => {
        &[$(Promise { name: stringify!($name), check: $module::$name }),*]
    };
}

pub const ALL: &[Promise] = promises![
    phases::what_is_not_offered_is_refused,
    phases::calls_in_the_wrong_phase_are_refused,
    phases::a_bad_start_leaves_the_vm_configurable,
    phases::messages_need_a_pool,
    phases::vcpus_are_those_declared,
    phases::a_dropped_vcpu_can_be_made_again,
    io::loads_and_stores_of_all_widths,
    io::unclaimed_loads,
    io::unclaimed_stores,
    io::many_answers_arrive_in_order,
    io::port_io,
    interrupts::only_declared_lines_can_be_bound,
    delivery::a_signal_on_an_edge_line_is_one_interrupt,
    delivery::a_signal_on_a_level_line_is_one_interrupt,
    delivery::lines_do_not_get_into_each_others_way,
    delivery::an_interrupt_ends_a_sleep,
    delivery::an_unbound_line_is_silent,
    delivery::a_message_is_the_interrupt_of_its_vector,
    delivery::cpus_interrupt_each_other,
    delivery::a_timer_interrupts,
    interrupts::an_ioevent_makes_no_exit,
    interrupts::an_ioevent_compares_the_value,
    kicks::a_kick_before_run_counts_once,
    kicks::a_kick_ends_a_sleep,
    kicks::a_kick_ends_a_spin,
    kicks::kicks_lose_no_exit_and_no_answer,
    exits::power_off_ends_every_vcpu_for_good,
    exits::reset_is_told_from_power_off,
    exits::a_crash_keeps_the_raw_words,
    exits::an_access_that_cannot_be_carried_out_ends_the_vm,
    exits::secondary_cpus_come_up_and_go,
    memory::regions_must_fit,
    memory::memory_is_what_host_and_guest_see,
    memory::read_only_memory_is_not_written,
    memory::a_plain_vm_shares_its_memory,
    memory::private_memory_is_out_of_reach,
    memory::memory_can_be_taken_back,
    memory::the_dirty_log_names_what_was_written,
    memory::reclaimed_pages_come_back_empty,
    memory::regions_are_as_large_as_the_host_takes_them,
    memory::memory_comes_in_chunks,
    kinds::a_trusted_vm_ends_at_its_start,
    kinds::firmware_must_be_in_memory,
    kinds::the_main_region_comes_from_reserved_memory,
    registers::registers_are_those_of_the_guest,
    teardown::nothing_is_left,
    teardown::vcpus_may_outlive_the_vm,
    teardown::a_vm_that_never_started_goes_too,
];

/// Waits until `done`, for as long as a busy host may need.
fn eventually(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
