//! Does the plugin keep the contract, and does it bring anything?

use std::{path::PathBuf, sync::Arc, time::Duration};

use castanet::{conformance, seams::discovery::Settings};
use castanet_integration::lab::{Plan, Scenario, run, scenario::Change};
use skeleton::{NAME, build};

#[tokio::test(start_paused = true)]
async fn it_keeps_the_contract() {
    let settings = Settings([("peers".to_owned(), "192.0.2.1:6881 192.0.2.2:6881".to_owned())].into());
    let means = conformance::island();
    // Time is free here.
    let options = conformance::Options { settle: Duration::from_secs(60), within: Duration::from_secs(3) };
    let report = conformance::check(|| build(&means, &settings), &options).await;
    assert!(report.passed(), "{report:#?}");
}

/// How many are complete in the end, with these plugins.
fn complete(plugins: &str) -> usize {
    let (folder, extra) = (PathBuf::from("."), vec![(NAME, build as _)]);
    let change = Change { field: "plugins".to_owned(), value: plugins.to_owned() };
    let scenario = Scenario::changed(include_str!("../skeleton.toml"), &[change], &folder, &extra).unwrap();
    run(&Plan { name: NAME.to_owned(), scenario: Arc::new(scenario), folder, extra, seed: 1 }).seekers.complete
}

#[test]
fn without_it_nobody_is_complete_and_with_it_all_are() {
    assert_eq!(complete("http-tracker+pex"), 0);
    assert_eq!(complete("http-tracker+pex+skeleton"), 10);
}
