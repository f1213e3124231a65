//! The services of a store on its host: started in the order of the configuration, stopped in reverse, and
//! each seen to run or not before the next one's turn.
//!
//! [`settings`] is what a configuration says, [`kind`] turns it into commands and their answers into
//! standings (pure), [`order`] says whose turn it is (pure), and [`attend`] runs the commands.

pub mod attend;
pub mod kind;
pub mod order;
pub mod settings;
