//! By which ways peers came to know each other.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Look, Section, group_of, middle_of,
    tree::{Place, Tree},
    write::{bar, count, fixed, number, plural, row, swatch, table, text},
};
use crate::lab::{experiment::Variant, report::Report};

/// Peers that are drawn.
const DRAWN: usize = 400;
/// Peers below each other; if there are more, they stand in several ranks.
const RANK: usize = 36;
/// Pixels between two of them.
const APART: usize = 14;
/// Hops that are told apart in the table.
const TOLD: usize = 12;

pub(super) fn section(look: &Look<'_>) -> Option<Section> {
    let is_empty = look.variants().all(|(_, variant)| variant.reports.iter().all(|report| report.peers.is_empty()));
    (!is_empty).then(|| Section {
        id: "hops",
        title: "Who came in through whom",
        note: "The first run. Every dot is a peer, joined to the first one with which it shook hands, in the colour of the plugin \
               that had named it; the number above is how many such contacts a seed is away. The tables are of the median run."
            .to_owned(),
        body: look.variants().map(|(at, variant)| look.heading(at) + &of_variant(look, variant)).collect(),
    })
}

fn of_variant(look: &Look<'_>, variant: &Variant) -> String {
    let Some(first) = variant.reports.first() else { return "<p class=\"none\">Nobody was there.</p>\n".to_owned() };
    let tree = Tree::of(first, DRAWN);
    let mut html = legend(look, first) + &drawing(look, first, &tree);
    if tree.placed() < tree.peers {
        let (drawn, all) = (fixed(tree.placed() as f64, 0), plural(tree.peers, "peer", "peers"));
        html += &format!("<p class=\"note\">{drawn} of {all} are drawn: those with the shortest way to a seed.</p>\n");
    }
    html + "<div class=\"beside\">\n" + &hops(look, variant) + &learned(look, variant) + "</div>\n"
}

/// The plugins that are in the drawing.
fn legend(look: &Look<'_>, report: &Report) -> String {
    let contacts = report.peers.iter().filter_map(|peer| peer.contact.as_ref());
    let plugins: BTreeSet<&str> = contacts.map(|contact| contact.plugin.as_str()).collect();
    let names: String = plugins.iter().map(|plugin| format!("<span>{}</span>\n", look.plugin_name(plugin))).collect();
    let kinds = [("seed", "a seed"), ("seeker", "began without the torrent"), ("seeker apart", "no seed on its way")];
    let kinds: String = kinds.iter().map(|(class, name)| format!("<span>{}{name}</span>\n", swatch(class))).collect();
    format!("<p class=\"legend\">\n{names}{kinds}</p>\n")
}

/// Where a dot is: in percent of the drawing.
struct Grid<'a> {
    tree: &'a Tree,
}

impl Grid<'_> {
    fn x(&self, column: usize, at: usize) -> f64 {
        let (width, ranks) = (100.0 / self.tree.columns.len().max(1) as f64, self.ranks(column));
        let rank = if ranks < 2 { 0.0 } else { (at % ranks) as f64 / (ranks - 1) as f64 - 0.5 };
        width * (column as f64 + 0.5 + rank * 0.55)
    }

    fn y(&self, column: usize, at: usize) -> f64 {
        (at as f64 + 0.5) / self.tree.columns[column].len() as f64 * 100.0
    }

    fn ranks(&self, column: usize) -> usize {
        self.tree.columns[column].len().div_ceil(RANK)
    }

    fn height(&self) -> usize {
        self.tree.columns.iter().map(|column| column.len().min(RANK)).max().unwrap_or(0).max(6) * APART
    }

    /// The width at which ranks do not hide each other.
    fn narrowest(&self) -> usize {
        let ranks = (0..self.tree.columns.len()).map(|column| self.ranks(column)).max().unwrap_or(0);
        self.tree.columns.len() * (24 + 20 * ranks)
    }
}

fn drawing(look: &Look<'_>, report: &Report, tree: &Tree) -> String {
    if tree.columns.is_empty() {
        return "<p class=\"none\">Nobody came.</p>\n".to_owned();
    }
    let grid = Grid { tree };
    let (height, narrowest) = (grid.height(), grid.narrowest());
    let mut svg = format!(
        "<div class=\"scroll tree\" tabindex=\"0\"><svg class=\"tree\" role=\"img\" aria-label=\"First contacts\" \
         style=\"height:{height}px;min-width:{narrowest}px\">\n\
         <svg class=\"stretch\" viewBox=\"0 0 1000 1000\" preserveAspectRatio=\"none\" width=\"100%\" height=\"100%\">\n"
    );
    for (column, places) in tree.columns.iter().enumerate() {
        for (at, place) in places.iter().enumerate() {
            svg += &edge(look, report, &grid, column, at, *place).unwrap_or_default();
        }
    }
    svg += "</svg>\n";
    for (column, places) in tree.columns.iter().enumerate() {
        let x = grid.x(column, 0) + if grid.ranks(column) > 1 { 27.5 / tree.columns.len() as f64 } else { 0.0 };
        svg += &format!("<text x=\"{x:.2}%\" y=\"-12\" text-anchor=\"middle\">{}</text>\n", head(tree, column));
        for (at, place) in places.iter().enumerate() {
            svg += &dot(report, &grid, column, at, *place);
        }
    }
    svg + "</svg></div>\n"
}

/// What stands above a column.
fn head(tree: &Tree, column: usize) -> String {
    match column {
        _ if column == tree.rooted => "apart".to_owned(),
        _ if column > tree.rooted => format!("+{}", column - tree.rooted),
        0 => "seeds".to_owned(),
        _ => column.to_string(),
    }
}

fn edge(look: &Look<'_>, report: &Report, grid: &Grid<'_>, column: usize, at: usize, place: Place) -> Option<String> {
    let contact = report.peers[place.peer].contact.as_ref()?;
    let before = column.checked_sub(1)?;
    let from = place.from?;
    let (left, right) = (grid.x(before, from) * 10.0, grid.x(column, at) * 10.0);
    let (top, bottom) = (grid.y(before, from) * 10.0, grid.y(column, at) * 10.0);
    let half = (left + right) / 2.0;
    Some(format!(
        "<path class=\"{}\" d=\"M{left:.1} {top:.1}C{half:.1} {top:.1} {half:.1} {bottom:.1} {right:.1} {bottom:.1}\">\
         <title>{}</title></path>\n",
        look.plugin(&contact.plugin),
        way(report, place.peer)
    ))
}

fn dot(report: &Report, grid: &Grid<'_>, column: usize, at: usize, place: Place) -> String {
    let peer = &report.peers[place.peer];
    let is_apart = column >= grid.tree.rooted;
    let class = match group_of(report, peer) {
        Some(group) if group.seed => "seed",
        _ if is_apart => "seeker apart",
        _ => "seeker",
    };
    format!(
        "<circle class=\"{class}\" cx=\"{:.2}%\" cy=\"{:.2}%\" r=\"4.5\"><title>{}</title></circle>\n",
        grid.x(column, at),
        grid.y(column, at),
        way(report, place.peer)
    )
}

/// A peer and its first contact in words.
fn way(report: &Report, at: usize) -> String {
    let peer = &report.peers[at];
    let name = text(&peer.name);
    let Some(contact) = &peer.contact else { return name };
    let whom = report.peers.get(contact.peer).map_or_else(String::new, |peer| text(&peer.name));
    let passed = match contact.hops {
        0 => String::new(),
        hops => format!(", passed on by {}", plural(usize::from(hops), "peer", "peers")),
    };
    format!("{name}: first {whom}, by {} after {}\u{a0}s{passed}", text(&contact.plugin), number(contact.after))
}

/// How many peers passed addresses on, by plugin.
fn hops(look: &Look<'_>, variant: &Variant) -> String {
    let plugins: BTreeSet<&str> =
        variant.reports.iter().flat_map(|report| report.hops.keys()).map(String::as_str).collect();
    let longest = variant.reports.iter().flat_map(|report| report.hops.values()).map(Vec::len).max().unwrap_or(0);
    if longest == 0 {
        return String::new();
    }
    let told = longest.min(TOLD);
    // The last column takes all that is farther away.
    let of = |plugin: &str, hops: usize| {
        middle_of(variant, |report| {
            let counts = report.hops.get(plugin).map_or(&[][..], Vec::as_slice).iter().skip(hops);
            if hops + 1 == told { counts.sum() } else { counts.take(1).sum() }
        })
    };
    let all = plugins.iter().flat_map(|plugin| (0..told).map(move |hops| of(plugin, hops)));
    let most = all.fold(0.0, f64::max);
    let rows: Vec<String> = plugins
        .iter()
        .map(|plugin| {
            let cells = (0..told).map(|hops| bar(Some(of(plugin, hops)), most, &look.plugin(plugin), count));
            row(&look.plugin_name(plugin), &cells.collect::<Vec<_>>())
        })
        .collect();
    let name =
        |hops: usize| if hops + 1 == told && longest > told { format!("{hops} or more") } else { hops.to_string() };
    let heads: Vec<String> = [String::new()].into_iter().chain((0..told).map(name)).collect();
    format!("<div>\n<h4>Addresses learned, by how many peers had passed them on</h4>\n{}</div>\n", table(&heads, &rows))
}

/// Which group learned of which by what.
fn learned(look: &Look<'_>, variant: &Variant) -> String {
    let all = variant.reports.iter().flat_map(|report| &report.learned);
    let keys: BTreeSet<(&str, &str, &str)> =
        all.map(|(who, whom, by, _)| (who.as_str(), whom.as_str(), by.as_str())).collect();
    let of = |key: (&str, &str, &str)| {
        middle_of(variant, |report| {
            let same =
                report.learned.iter().filter(|(who, whom, by, _)| (who.as_str(), whom.as_str(), by.as_str()) == key);
            same.map(|(.., times)| times).sum()
        })
    };
    let mut matrix: BTreeMap<(&str, &str), Vec<(&str, f64)>> = BTreeMap::new();
    for key @ (who, whom, by) in keys {
        matrix.entry((who, whom)).or_default().push((by, of(key)));
    }
    let (rows, columns) =
        (order(variant, matrix.keys().map(|(who, _)| *who)), order(variant, matrix.keys().map(|(_, whom)| *whom)));
    if rows.is_empty() {
        return String::new();
    }
    let most = matrix.values().flatten().fold(0.0_f64, |most, (_, times)| most.max(*times));
    let written: Vec<String> = rows
        .iter()
        .map(|who| {
            let cells = columns.iter().map(|whom| learned_cell(look, matrix.get(&(*who, *whom)), most));
            row(&text(who), &cells.collect::<Vec<_>>())
        })
        .collect();
    let heads = columns.iter().map(|whom| format!("of {}", text(whom)));
    let heads: Vec<String> = [String::new()].into_iter().chain(heads).collect();
    format!("<div>\n<h4>Which group learned of which, by what</h4>\n{}</div>\n", table(&heads, &written))
}

/// Groups in the scenario's order.
fn order<'a>(variant: &'a Variant, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let names: BTreeSet<&str> = names.collect();
    let groups = variant.reports.first().map_or(&[][..], |report| report.groups.as_slice());
    let place = |name: &str| groups.iter().position(|group| group.name == name).unwrap_or(groups.len());
    let mut names: Vec<&str> = names.into_iter().collect();
    names.sort_by_key(|name| place(name));
    names
}

fn learned_cell(look: &Look<'_>, by: Option<&Vec<(&str, f64)>>, most: f64) -> String {
    let lines = by.into_iter().flatten().map(|(plugin, times)| {
        let share = if most > 0.0 { times / most } else { 0.0 };
        format!(
            "<div class=\"line bar {}\" style=\"--w:{share:.3}\"><span>{}</span><span>{}</span></div>",
            look.plugin(plugin),
            text(plugin),
            count(*times)
        )
    });
    format!("<td class=\"lines\">{}</td>", lines.collect::<String>())
}
