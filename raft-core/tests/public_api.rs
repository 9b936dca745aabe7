//! That no type of openraft or RocksDB is in this crate's public API: either could be replaced
//! without a user noticing.
//!
//! Read from the sources: names that come from those crates, directly or by a type alias, must not
//! stand in the signature of anything public. The compiler refuses private types of our own there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};
use quote::ToTokens;
use syn::{Fields, File, ImplItem, Item, TraitItem, UseTree, Visibility};

const HIDDEN_CRATES: [&str; 2] = ["openraft", "rocksdb"];

type Names = BTreeSet<String>;

/// Every file below `folder`, parsed, with its path.
fn sources(folder: &Path, found: &mut Vec<(String, File)>) {
    for item in fs::read_dir(folder).unwrap() {
        let path = item.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap();
            let name = path.display().to_string();
            let parsed = syn::parse_file(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
            found.push((name, parsed));
        }
    }
}

/// Identifiers in some tokens, but for those behind `::`, which the one before them qualifies.
fn identifiers(tokens: TokenStream, names: &mut Names) {
    let mut qualified = 0;
    for token in tokens {
        match token {
            TokenTree::Ident(name) if qualified < 2 => {
                names.insert(name.to_string());
                qualified = 0;
            }
            TokenTree::Punct(punct) if punct.as_char() == ':' => qualified += 1,
            TokenTree::Group(group) => {
                identifiers(group.stream(), names);
                qualified = 0;
            }
            _ => qualified = 0,
        }
    }
}

/// The names that a `use` brings in.
fn imported(tree: &UseTree, names: &mut Names) {
    match tree {
        UseTree::Path(path) => imported(&path.tree, names),
        UseTree::Name(name) => drop(names.insert(name.ident.to_string())),
        UseTree::Rename(rename) if rename.rename == "_" => {}
        UseTree::Rename(rename) => drop(names.insert(rename.rename.to_string())),
        UseTree::Group(group) => group.items.iter().for_each(|tree| imported(tree, names)),
        UseTree::Glob(_) => panic!("a glob hides where names come from"),
    }
}

/// What of a file's items a user of the crate may see, as tokens.
fn visible(file: &File, exported: &Names) -> Vec<TokenStream> {
    let public = |visibility: &Visibility| matches!(visibility, Visibility::Public(_));
    let fields = |fields: &Fields, all: bool, seen: &mut Vec<TokenStream>| {
        let fields = fields.iter().filter(|field| all || public(&field.vis));
        seen.extend(fields.map(|field| field.ty.to_token_stream()));
    };
    let mut seen = Vec::new();
    for item in &file.items {
        match item {
            Item::Fn(item) if public(&item.vis) => seen.push(item.sig.to_token_stream()),
            Item::Const(item) if public(&item.vis) => seen.push(item.ty.to_token_stream()),
            Item::Type(item) if public(&item.vis) => seen.push(item.ty.to_token_stream()),
            Item::Struct(item) if public(&item.vis) => {
                seen.push(item.generics.to_token_stream());
                fields(&item.fields, false, &mut seen);
            }
            Item::Enum(item) if public(&item.vis) => {
                for variant in &item.variants {
                    fields(&variant.fields, true, &mut seen);
                }
            }
            Item::Trait(item) if public(&item.vis) => {
                seen.push(item.supertraits.to_token_stream());
                seen.extend(item.items.iter().map(|item| match item {
                    TraitItem::Fn(item) => item.sig.to_token_stream(),
                    other => other.to_token_stream(),
                }));
            }
            Item::Impl(item) => {
                let mut subject = Names::new();
                identifiers(item.self_ty.to_token_stream(), &mut subject);
                if subject.is_disjoint(exported) {
                    continue;
                }
                seen.push(item.generics.to_token_stream());
                seen.extend(
                    item.trait_
                        .as_ref()
                        .map(|(_, path, _)| path.to_token_stream()),
                );
                let is_trait = item.trait_.is_some();
                seen.extend(item.items.iter().filter_map(|item| match item {
                    ImplItem::Fn(item) if is_trait || public(&item.vis) => {
                        Some(item.sig.to_token_stream())
                    }
                    ImplItem::Type(item) => Some(item.ty.to_token_stream()),
                    _ => None,
                }));
            }
            _ => {}
        }
    }
    seen
}

#[test]
fn no_type_of_openraft_or_rocksdb_is_in_the_public_api() {
    let mut files = Vec::new();
    sources(Path::new("src"), &mut files);

    let mut exported = Names::new();
    let mut hidden: Names = HIDDEN_CRATES.map(str::to_owned).into();
    for (name, file) in &files {
        for item in &file.items {
            match item {
                Item::Use(item) if name.ends_with("src/lib.rs") => {
                    imported(&item.tree, &mut exported);
                }
                Item::Type(item) => {
                    let mut parts = Names::new();
                    identifiers(item.ty.to_token_stream(), &mut parts);
                    if HIDDEN_CRATES.iter().any(|crate_| parts.contains(*crate_)) {
                        hidden.insert(item.ident.to_string());
                    }
                }
                _ => {}
            }
        }
    }
    assert!(exported.contains("Node") && exported.contains("StateMachine"));
    assert!(
        hidden.contains("LogId"),
        "aliases of openraft's types are hidden: {hidden:?}"
    );

    let mut checked = 0;
    for (name, file) in &files {
        let mut hidden = hidden.clone();
        for item in &file.items {
            if let Item::Use(item) = item
                && let UseTree::Path(path) = &item.tree
                && HIDDEN_CRATES.iter().any(|crate_| path.ident == crate_)
            {
                imported(&item.tree, &mut hidden);
            }
        }
        for tokens in visible(file, &exported) {
            let mut parts = Names::new();
            identifiers(tokens.clone(), &mut parts);
            let shown: Vec<_> = parts.intersection(&hidden).collect();
            assert!(shown.is_empty(), "{name}: `{tokens}` shows {shown:?}");
            checked += 1;
        }
    }
    assert!(checked > 100, "only {checked} public signatures were found");
}
