use std::{collections::BTreeMap, sync::Arc};

use super::*;
use crate::lab::{
    Plan, Scenario,
    experiment::{Form, conduct},
    report::ContactReport,
};

const SMALL: &str = r#"
about = "A few <peers> & a \"DHT\"."
for = "2m"
plugins = ["dht", "pex"]
[dht]
nodes = 10
[torrent]
pieces = 8
[[peers]]
name = "seeds"
seed = true
[[peers]]
name = "leeches"
count = 5
join = "0s..20s"
"#;

/// Runs a scenario in several forms.
fn conducted(name: &str, forms: &[(&str, &str)], seeds: &[u64]) -> Experiment {
    let form = |(label, text): &(&str, &str)| {
        let scenario = Arc::new(Scenario::read(text, ".".as_ref(), &[]).unwrap());
        let plan = Plan { name: name.into(), scenario, folder: ".".into(), extra: Vec::new(), seed: 0 };
        Form { label: (*label).to_owned(), plan }
    };
    let forms: Vec<Form> = forms.iter().map(form).collect();
    conduct(&forms, seeds, 2, &|_, _| {}).unwrap()
}

fn two_forms() -> Experiment {
    let alone = SMALL.replace(r#"["dht", "pex"]"#, r#"["dht"]"#);
    conducted("<script>alert('&')</script>", &[("plugins=<dht>", &alone), ("plugins=dht+pex", SMALL)], &[1, 2, 3])
}

/// Tags balance, attributes are quoted, and nothing but the five entities begins with an ampersand.
fn check(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page.strip_prefix("<!DOCTYPE html>").unwrap();
    while let Some(start) = rest.find('<') {
        check_text(&rest[..start]);
        let end = start + rest[start..].find('>').unwrap();
        let tag = &rest[start + 1..end];
        rest = &rest[end + 1..];
        let name = tag.trim_matches('/').split(' ').next().unwrap();
        assert!(!name.is_empty() && name.chars().all(|letter| letter.is_ascii_alphanumeric()), "<{tag}>");
        assert!(!["script", "link", "img", "iframe"].contains(&name), "<{tag}>");
        assert!(tag.matches('"').count().is_multiple_of(2) && !tag.contains('<'), "<{tag}>");
        check_text(tag);
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "closed by {tag}");
        } else if !tag.ends_with('/') {
            open.push(name);
        }
        if name == "style" && !tag.starts_with('/') {
            rest = &rest[rest.find("</style>").unwrap()..];
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{open:?}");
}

fn check_text(text: &str) {
    for (at, _) in text.match_indices('&') {
        let known = ["&amp;", "&lt;", "&gt;", "&quot;", "&#39;"];
        assert!(known.iter().any(|entity| text[at..].starts_with(entity)), "{text}");
    }
    // In a word such as `info`, they are part of it.
    for word in text.split(|letter: char| !letter.is_ascii_alphanumeric()) {
        assert!(!["NaN", "inf"].contains(&word), "{text}");
    }
}

#[test]
fn the_same_experiment_gives_the_same_page() {
    let (one, other) = (page(&two_forms()), page(&two_forms()));
    assert!(one == other, "two pages of the same experiment differ");
}

#[test]
fn a_page_is_well_formed_and_has_every_part() {
    let page = page(&two_forms());
    check(&page);
    let ids = ["versus", "completion", "worth", "overlap", "fairness", "hops", "ends", "replay"];
    let places: Vec<usize> = ids.iter().map(|id| page.find(&format!("<section id=\"{id}\">")).unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("url("), "needs a network");
}

#[test]
fn names_are_escaped() {
    let experiment = two_forms();
    let page = page(&experiment);
    assert!(page.contains("<h1>&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;</h1>"));
    assert!(page.contains("A few &lt;peers&gt; &amp; a &quot;DHT&quot;."));
    assert!(page.contains("plugins=&lt;dht&gt;") && !page.contains("<dht>"));
    assert!(page.contains(&experiment.hash()));
}

#[test]
fn one_run_has_nothing_to_compare() {
    let page = page(&conducted("one", &[("", SMALL)], &[7]));
    check(&page);
    assert!(page.contains("<b>5 of 5 honest peers completed</b>"), "no answer");
    assert!(page.contains("castanet lab one --seed 7 --runs 1") && !page.contains("id=\"versus\""));
}

#[test]
fn nobody_who_gets_anywhere_is_no_trouble() {
    let lost = SMALL.replace(r#"plugins = ["dht", "pex"]"#, "plugins = []").replace("2m", "30s");
    let page = page(&conducted("lost", &[("", &lost), ("again", &lost)], &[1]));
    check(&page);
    assert!(page.contains("0 of 5"), "the curve's legend");
    assert!(!page.contains("id=\"overlap\""), "no plugin, no overlap");
}

#[test]
fn an_experiment_without_runs_has_a_page() {
    let empty = Experiment {
        scenario: String::new(),
        about: String::new(),
        seeds: Vec::new(),
        variants: Vec::new(),
        comparisons: Vec::new(),
    };
    check(&page(&empty));
    let variant = Variant { label: String::new(), figures: BTreeMap::new(), reports: Vec::new() };
    check(&page(&Experiment { variants: vec![variant.clone(), variant], ..empty }));
}

#[test]
fn numbers_that_are_none_do_not_reach_the_page() {
    let mut experiment = two_forms();
    for report in experiment.variants.iter_mut().flat_map(|variant| &mut variant.reports) {
        report.plugins[0].first.median = Some(f64::NAN);
        report.groups[1].fairness = Some(f64::NEG_INFINITY);
        report.peers[1].complete = Some(f64::INFINITY);
    }
    check(&page(&experiment));
}

#[test]
fn rings_and_strangers_stand_apart() {
    let mut experiment = conducted("ring", &[("", SMALL)], &[1]);
    let report = &mut experiment.variants[0].reports[0];
    let contact = |peer| Some(ContactReport { peer, plugin: "pex".into(), hops: 1, after: 1.0 });
    // 1 came through the seed, 3 through 1; 2 and 4 through each other; 5 met nobody.
    for (peer, first) in
        [(0, contact(1)), (1, contact(0)), (2, contact(4)), (3, contact(1)), (4, contact(2)), (5, None)]
    {
        report.peers[peer].contact = first;
    }
    let peers = |tree: &tree::Tree| -> Vec<Vec<usize>> {
        tree.columns.iter().map(|column| column.iter().map(|place| place.peer).collect()).collect()
    };
    let tree = tree::Tree::of(report, 400);
    assert_eq!((peers(&tree), tree.rooted), (vec![vec![0], vec![1], vec![3], vec![2, 5], vec![4]], 3));
    let cut = tree::Tree::of(report, 2);
    assert_eq!((peers(&cut), cut.placed(), cut.peers), (vec![vec![0], vec![1]], 2, 6));
    check(&page(&experiment));
}
