//! Random work done in a real overlay and committed gives the tree that the same work gives natively.
//!
//! Hard-link groups are compared with those of the upper directory instead: `mv` of a directory copies
//! in an overlay (`rename(2)` answers EXDEV), which separates links. The original tree has none, so
//! every group of the result was made in the session.

#![allow(clippy::unwrap_used)]

mod common;
use common::ops::{SETUP, operation, script};
use common::{Session, link_groups, sh, tree};

use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("AGENTWALL_MODEL_CASES").ok().and_then(|v| v.parse().ok()).unwrap_or(150),
        max_shrink_iters: 200,
        ..ProptestConfig::default()
    })]

    #[test]
    fn commit_equals_native(ops in prop::collection::vec(operation(), 1..25)) {
        let script = script(&ops);
        let s = Session::new(SETUP);
        sh(s.tmp.path(), "cp -a root native");
        let native = s.tmp.path().join("native");
        sh(&native, &script);
        s.agent(&script);
        let groups = link_groups(s.upper());
        let set = s.scan();
        let conflicts = set.changes.iter().filter(|c| c.conflict.is_some()).count();
        prop_assert_eq!(conflicts, 0, "{:#?}", set);
        let report = s.commit(&set);
        prop_assert!(report.is_complete(), "{:#?}", report);
        prop_assert!(report.warnings.is_empty() && report.kept.is_empty(), "{:#?}", report);
        prop_assert_eq!(tree(&native), tree(s.root()));
        let again = s.scan();
        prop_assert!(again.is_empty(), "{:#?}", again);
        s.no_litter();
        s.no_trash();
        prop_assert_eq!(groups, link_groups(s.root()));
    }
}
