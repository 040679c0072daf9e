//! Which recorded call answers which call, and when.
//!
//! No system calls here: only what was recorded, what is asked, and what may be answered next.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::parse::Recording;
use crate::record::format::{Answer, Event, ExitPage, Kind, Object, Outcome};
use crate::record::text::hex_number;

/// The name of RUN in recordings.
pub(crate) const RUN: &str = "GH_VCPU_RUN";

/// A call that the program makes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) obj: Option<Object>,
    pub(crate) op: String,
    pub(crate) args: Map<String, Value>,
    /// What it left in the page, for RUN on a vCPU whose last exit is to be answered.
    pub(crate) answer: Option<Answer>,
}

/// A recorded call that is to be answered again.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) event: Event,
    /// What the program had left in the page when it was first called: calls that a signal interrupted come before.
    expected: Option<Answer>,
    state: State,
}

impl Step {
    fn is_open(&self) -> bool {
        matches!(self.state, State::Open | State::Passed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not asked yet.
    Open,
    /// Not asked yet, and nobody waits for it: it may never come.
    Passed,
    /// Asked, not answered yet.
    Claimed,
    /// Answered, or given up.
    Done,
}

/// What becomes of a call.
#[derive(Debug, PartialEq)]
pub(crate) enum Match {
    /// It is this step.
    Step(usize),
    /// It is this step, but the page's answer differs.
    OtherAnswer(usize, Divergence),
    /// It was not recorded here.
    None(Divergence),
}

/// Where the program did something else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Divergence {
    /// The line of the recording, if there is one.
    pub line: Option<usize>,
    /// What was recorded.
    pub recorded: String,
    /// What the program does now.
    pub now: String,
}

impl std::fmt::Display for Divergence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.line {
            Some(line) => writeln!(f, "recorded (line {line}): {}", self.recorded)?,
            None => writeln!(f, "recorded: {}", self.recorded)?,
        }
        write!(f, "now: {}", self.now)
    }
}

/// One object's steps.
#[derive(Debug, Default)]
struct Queue {
    steps: Vec<usize>,
    /// So many at the front are done.
    done: usize,
}

/// All that is to be answered, in the recorded order.
#[derive(Debug)]
pub(crate) struct Plan {
    steps: Vec<Step>,
    /// Each object's steps, `None` for opens.
    by_object: HashMap<Option<Object>, Queue>,
    /// Every step before this one is done.
    done_before: usize,
    /// Recorded threads that nobody waits for: they had a turn and did not come. Their calls are answered when they do.
    absent: HashSet<u32>,
    /// How the recorded program ended, as a shell would show it.
    exit_code: Option<i64>,
    /// How long the files must be that the program maps, in bytes.
    sizes: HashMap<Object, u64>,
}

/// Whether the program never saw this: it went on inside the kernel, or a signal came that will not come again.
fn is_skipped(event: &Event) -> bool {
    let exit = event.page.filter(|page| page.exit_reason != 0 && !page.stale);
    match event.outcome {
        Outcome::Restarted => true,
        // With an exit in the page, the program could have seen that: the lost-exit trap is replayed.
        Outcome::Errno(libc::EINTR) => event.op == RUN && exit.is_none(),
        _ => matches!(event.op.as_str(), "mmap" | "close" | "fallocate" | "exit"),
    }
}

/// What an event tells of a memory file's size, in bytes.
fn size_of_file(event: &Event) -> Option<(Object, u64)> {
    let number = |name| event.args.get(name).and_then(Value::as_str).and_then(hex_number);
    match (event.op.as_str(), event.obj, event.new) {
        ("mmap", Some(object), _) => Some((object, number("offset")?.checked_add(number("length")?)?)),
        (_, _, Some(object)) if object.kind == Kind::GuestMem => Some((object, number("size")?)),
        _ => None,
    }
}

impl Plan {
    pub(crate) fn new(recording: Recording) -> Self {
        let mut steps = Vec::new();
        let mut by_object: HashMap<_, Queue> = HashMap::new();
        // For each vCPU: what was left in the page at the first RUN since the last exit that the program saw.
        let mut sizes: HashMap<Object, u64> = HashMap::new();
        let mut answers: HashMap<Object, Option<Answer>> = HashMap::new();
        let mut exit_code = None;
        for (line, event) in recording.events {
            if event.op == "exit" {
                let number = |name| event.args.get(name).and_then(Value::as_i64);
                exit_code = number("code").or_else(|| number("signal").and_then(|n| n.checked_add(128)));
            }
            if let Some((object, size)) = size_of_file(&event) {
                let known = sizes.entry(object).or_default();
                *known = size.max(*known);
            }
            let skipped = is_skipped(&event);
            let mut expected = None;
            if let (RUN, Some(object)) = (event.op.as_str(), event.obj) {
                let first = answers.remove(&object).unwrap_or_else(|| Some(event.answer.clone()));
                if skipped {
                    // An exit that the kernel took back by itself has no answer of the program's.
                    let unseen = event.page.is_some_and(|page| page.exit_reason != 0 && !page.stale);
                    answers.insert(object, if unseen { None } else { first });
                } else {
                    expected = first;
                }
            }
            if skipped {
                continue;
            }
            by_object.entry(event.obj).or_default().steps.push(steps.len());
            steps.push(Step { line, event, expected, state: State::Open });
        }
        // A vCPU's last RUN may be cut off, by a kick or by the process's end.
        let mut seen = HashSet::new();
        for step in steps.iter_mut().rev() {
            if step.event.op == RUN && seen.insert(step.event.obj) {
                step.state = State::Passed;
            }
        }
        Self { steps, by_object, done_before: 0, absent: HashSet::new(), exit_code, sizes }
    }

    /// How long an object's file must be, in bytes; 0 if nobody cares.
    pub(crate) fn size(&self, object: Object) -> u64 {
        self.sizes.get(&object).copied().unwrap_or(0)
    }

    pub(crate) fn step(&self, index: usize) -> Option<&Step> {
        self.steps.get(index)
    }

    /// The recorded opens' paths.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &str> {
        self.steps
            .iter()
            .filter(|step| step.event.op == "open")
            .filter_map(|step| step.event.args.get("path").and_then(Value::as_str))
    }

    /// An object's steps from the first one that is not done.
    fn of(&self, obj: Option<Object>) -> impl Iterator<Item = (usize, &Step)> {
        let queue = self.by_object.get(&obj);
        let indices = queue.and_then(|queue| queue.steps.get(queue.done..)).unwrap_or_default();
        indices.iter().filter_map(|index| Some((*index, self.steps.get(*index)?)))
    }

    /// Finds the step that a call is: the object's next one, or a later one that other threads' calls precede.
    pub(crate) fn claim(&mut self, asked: &Asked, lenient: bool) -> Match {
        if let Some(queue) = self.by_object.get_mut(&asked.obj) {
            let is_done =
                |index: &&usize| self.steps.get(**index).is_some_and(|step| step.state == State::Done);
            queue.done += queue.steps.iter().skip(queue.done).take_while(is_done).count();
        }
        let mut passed: Vec<u32> = Vec::new();
        let mut first = None;
        let mut found = None;
        for (index, step) in self.of(asked.obj).filter(|(_, step)| step.is_open()) {
            first.get_or_insert(index);
            let same = step.event.op == asked.op && same_args(&step.event.args, &asked.args);
            if same && (lenient || !passed.contains(&step.event.tid)) {
                found = Some(index);
                break;
            }
            passed.push(step.event.tid);
        }
        let Some(index) = found else {
            let next = first.and_then(|index| self.steps.get(index));
            return Match::None(Divergence {
                line: next.map(|step| step.line),
                recorded: match (next, asked.obj) {
                    (Some(step), _) => describe(&step.event),
                    (None, Some(object)) => format!("no more calls on {object}"),
                    (None, None) => "no more opens".to_owned(),
                },
                now: describe_asked(asked),
            });
        };
        if lenient {
            // What was passed over in the same thread will not come any more.
            let tid = self.steps.get(index).map(|step| step.event.tid);
            let skip: Vec<usize> = self
                .of(asked.obj)
                .filter(|(other, step)| *other < index && step.is_open() && Some(step.event.tid) == tid)
                .map(|(other, _)| other)
                .collect();
            skip.into_iter().for_each(|other| self.finish(other));
        }
        let tid = self.steps.get(index).map(|step| step.event.tid);
        for step in self.steps.iter_mut().take(index).skip(self.done_before) {
            if step.state == State::Open && Some(step.event.tid) == tid {
                step.state = State::Passed;
            }
        }
        let Some(step) = self.steps.get_mut(index) else { return Match::Step(index) };
        step.state = State::Claimed;
        self.absent.remove(&step.event.tid);
        // Compared once: a call that a signal interrupts is made again, and by then the answer may have been used.
        match (step.expected.take(), &asked.answer) {
            (Some(recorded), Some(now)) if !same_answer(&recorded, now) => {
                let told = |answer: &Answer| {
                    let data = answer.data.as_deref().unwrap_or("nothing");
                    format!(
                        "{} answers the last exit with {data}, resume_action {}",
                        asked.op, answer.resume_action
                    )
                };
                let divergence =
                    Divergence { line: Some(step.line), recorded: told(&recorded), now: told(now) };
                Match::OtherAnswer(index, divergence)
            }
            _ => Match::Step(index),
        }
    }

    /// The call that had claimed a step was interrupted: it will be made again.
    pub(crate) fn unclaim(&mut self, index: usize) {
        if let Some(step) = self.steps.get_mut(index) {
            if step.state == State::Claimed {
                step.state = State::Open;
            }
        }
    }

    /// Whether a claimed step may be answered: all before it have been, but for those of absent threads.
    pub(crate) fn is_due(&mut self, index: usize) -> bool {
        while let Some(step) = self.steps.get(self.done_before) {
            let passed = match step.state {
                State::Done | State::Passed => true,
                State::Open => self.absent.contains(&step.event.tid),
                State::Claimed => false,
            };
            // A call that never returned keeps nobody waiting.
            if !passed && step.event.outcome != Outcome::Unfinished {
                break;
            }
            self.done_before += 1;
        }
        self.done_before >= index
    }

    /// Gives up waiting for what comes before a step.
    pub(crate) fn wait_no_more(&mut self, index: usize) {
        let before = self.steps.iter().take(index).skip(self.done_before);
        self.absent.extend(before.filter(|step| step.state == State::Open).map(|step| step.event.tid));
    }

    /// A step has been answered.
    pub(crate) fn finish(&mut self, index: usize) {
        if let Some(step) = self.steps.get_mut(index) {
            step.state = State::Done;
        }
    }

    /// Recorded calls that were not made, RUNs apart from the others.
    pub(crate) fn left(&self) -> (Vec<&Step>, Vec<&Step>) {
        self.steps
            .iter()
            .filter(|step| step.state != State::Done && step.event.outcome != Outcome::Unfinished)
            .partition(|step| step.event.op == RUN)
    }

    /// The code that the recorded program ended with, 128 and more for a signal. `None` if its end was not recorded.
    pub(crate) fn exit_code(&self) -> Option<i64> {
        self.exit_code
    }
}

/// The exit that the program saw at a step, for what it answers next.
pub(crate) fn exit_of(event: &Event) -> Option<ExitPage> {
    event.page.filter(|page| !page.stale)
}

fn same_answer(recorded: &Answer, now: &Answer) -> bool {
    // Without data in the recording, the page was not seen then.
    (recorded.data.is_none() || recorded.data == now.data) && recorded.resume_action == now.resume_action
}

/// Whether arguments are the same. An eventfd's number is not compared: it counts those that the recorder saw.
fn same_args(recorded: &Map<String, Value>, now: &Map<String, Value>) -> bool {
    let is_eventfd = |value: &Value| value.as_str().is_some_and(|text| text.starts_with("eventfd"));
    recorded.len() == now.len()
        && recorded.iter().all(|(name, value)| {
            now.get(name).is_some_and(|other| other == value || (is_eventfd(value) && is_eventfd(other)))
        })
}

fn with_args(op: &str, obj: Option<Object>, args: &Map<String, Value>) -> String {
    let mut text = op.to_owned();
    if let Some(object) = obj {
        text = format!("{object}: {text}");
    }
    for (name, value) in args {
        text.push_str(&format!(
            " {name}={}",
            value.as_str().map_or_else(|| value.to_string(), str::to_owned)
        ));
    }
    text
}

pub(crate) fn describe(event: &Event) -> String {
    format!("{} = {}", with_args(&event.op, event.obj, &event.args), event.outcome)
}

fn describe_asked(asked: &Asked) -> String {
    with_args(&asked.op, asked.obj, &asked.args)
}
