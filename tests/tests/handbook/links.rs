//! Links within the repository lead to files and headings that exist.

use std::collections::{HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

/// Targets of a page's Markdown links, without those inside code.
pub fn of(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    for line in prose(text) {
        for part in line.split("](").skip(1) {
            if let Some(target) = part.split(')').next() {
                links.push(target.split_whitespace().next().unwrap_or("").to_owned());
            }
        }
    }
    links
}

/// What is wrong, a line each: of all links, that they lead to a file and a heading; of pages of the
/// book, also that they stay inside it.
pub fn broken(root: &Path, pages: &[PathBuf]) -> Vec<String> {
    let mut broken = Vec::new();
    let mut headings = HashMap::new();
    let book = Path::new("docs");
    for page in pages {
        let text = std::fs::read_to_string(root.join(page)).unwrap_or_default();
        let folder = page.parent().unwrap_or(Path::new(""));
        for file in text.split("{{#include ").skip(1) {
            let file = file.split("}}").next().unwrap_or("");
            if !root.join(normal(&folder.join(file))).exists() {
                broken.push(format!("{}: {file}: there is no such file", page.display()));
            }
        }
        for link in of(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = match file {
                "" => page.clone(),
                file => normal(&folder.join(file)),
            };
            let mut say = |what: &str| broken.push(format!("{}: {link}: {what}", page.display()));
            if !root.join(&target).exists() {
                say("there is no such file");
            } else if page.starts_with(book) && !target.starts_with(book) {
                say("leads out of the book, where it is dead; name the file without a link");
            } else if page.starts_with(book)
                && target.extension().is_some_and(|e| e == "md")
                && !pages.contains(&target)
            {
                say("is not in docs/SUMMARY.md, so the book has no such page");
            } else if !anchor.is_empty() {
                let known = headings
                    .entry(target.clone())
                    .or_insert_with(|| anchors(&root.join(&target)));
                if !known.contains(anchor) {
                    say("there is no such heading");
                }
            }
        }
    }
    broken
}

fn anchors(file: &Path) -> HashSet<String> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let headings = prose(&text).filter(|line| line.starts_with('#'));
    let mut anchors = HashSet::new();
    for heading in headings {
        let words = heading.trim_start_matches('#').trim();
        let anchor: String = words
            .chars()
            .filter_map(|c| match c {
                ' ' => Some('-'),
                c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c.to_ascii_lowercase()),
                _ => None,
            })
            .collect();
        let mut unique = anchor.clone();
        for n in 1.. {
            if anchors.insert(unique) {
                break;
            }
            unique = format!("{anchor}-{n}");
        }
    }
    anchors
}

/// Lines outside of code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                normal.pop();
            }
            Component::CurDir => {}
            part => normal.push(part),
        }
    }
    normal
}

#[test]
fn a_link_to_nowhere_is_told() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("docs")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "docs/a.md",
        "# A b\n[x](b.md#c-d) [y](#a-b) [z](none.md) [w](#none) [out](../r.md)\n{{#include x}}",
    );
    write("docs/b.md", "## C: d\n");
    write("r.md", "");
    let broken = broken(folder.path(), &["docs/a.md".into(), "docs/b.md".into()]);
    assert_eq!(broken.len(), 4, "{broken:?}");
}
