//! The world that Pontoon must survive: simulation, faults on real processes, checkers.
