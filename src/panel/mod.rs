//! The pages of the control panel: functions from a store's state to HTML. Pure.
//!
//! Nothing here reads a clock, a file or a request: a page is a function of what it shows and of who looks, so
//! each is tested as text. `maud` escapes all that is put into a page. No page has a script, a style or a
//! handler of its own; the four files in `assets` are all there is, and the policy that goes with each answer
//! forbids the rest.

pub mod assets;
pub mod audit;
pub mod command;
pub mod entrance;
pub mod evidence;
pub mod fleet;
pub mod frame;
pub mod icon;
pub mod need;
pub mod refusal;
pub mod sentence;
pub mod store;
pub mod timeline;
pub mod words;

#[cfg(test)]
mod samples;
