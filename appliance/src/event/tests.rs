//! The log in one process: order, restarts, alarms, acknowledgement, pruning.
