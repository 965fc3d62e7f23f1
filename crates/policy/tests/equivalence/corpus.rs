//! What once differed, by the name of what was wrong.
