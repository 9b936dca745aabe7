//! A sorted map that costs nothing to copy: a B+ tree whose nodes are shared until one side changes
//! them. It decides nothing and knows nothing of locks.
//!
//! A copy shares the root. The first change below a shared node copies that node and those above
//! it, so that a held copy makes each change a few microseconds slower until the nodes that change
//! have been copied, and never stops the world.
//!
//! Keys may be texts behind pointers, and every comparison that follows one costs a cache miss. So
//! each node also holds the *heads* of its keys: of each the eight bytes behind the bytes that all
//! keys of the node have in common, as a number. Heads decide nearly all comparisons. How many bytes a node's
//! keys have in common follows from the separators beside it, which bound all keys that can ever
//! come into it, so an insertion never changes it. (Heads and their bounds are those of Graefe's
//! survey "Modern B-Tree Techniques", 2011, "poor man's normalized keys" and fence keys.)

use std::cmp::Ordering;
use std::sync::Arc;

/// A node is split above `MAX` and joined with a neighbour below `MIN`.
const MAX: usize = 24;
const MIN: usize = 6;

/// What a tree can be sorted by.
pub(crate) trait Key: Ord + Clone {
    /// A number that never falls as keys rise, among keys that have their first `skip` bytes in
    /// common.
    fn head(&self, skip: usize) -> u64;

    /// How many bytes at the front of both keys, and therefore of all keys between them, are the
    /// same. 0 for keys that [`Key::head`] tells apart from their first byte.
    fn shared_bytes(&self, _other: &Self) -> usize {
        0
    }
}

/// The first eight bytes as a number that is ordered as they are.
pub(crate) fn head_of_bytes(bytes: &[u8]) -> u64 {
    if let Some(first) = bytes.first_chunk() {
        return u64::from_be_bytes(*first);
    }
    let mut first = [0; 8];
    first
        .iter_mut()
        .zip(bytes)
        .for_each(|(to, from)| *to = *from);
    u64::from_be_bytes(first)
}

/// A sorted map.
#[derive(Clone)]
pub(crate) struct Tree<K, V> {
    root: Option<Arc<Node<K, V>>>,
    len: usize,
}

#[derive(Clone)]
struct Node<K, V> {
    /// How many bytes the heads leave out.
    skip: usize,
    heads: Heads,
    body: Body<K, V>,
}

#[derive(Clone)]
enum Body<K, V> {
    Leaf(Vec<Slot<K, V>>),
    /// The key of a slot is a lower bound of its child; that of the first slot is not used for
    /// searching, and may be too large at the left edge of the tree.
    Inner(Children<K, V>),
}

#[derive(Clone)]
struct Slot<K, V> {
    key: K,
    value: V,
}

type Children<K, V> = Vec<Slot<K, Child<K, V>>>;
type Child<K, V> = Arc<Node<K, V>>;

/// The heads of a node's keys, in one place, and the largest number behind them. All of them are
/// looked at in every search: that is a few cache lines which do not wait for each other.
#[derive(Clone)]
struct Heads([u64; MAX + 1]);

impl Heads {
    const NONE: Self = Self([u64::MAX; MAX + 1]);

    /// How many are below `head`.
    fn below(&self, head: u64) -> usize {
        self.0.iter().map(|it| usize::from(*it < head)).sum()
    }

    fn insert(&mut self, at: usize, head: u64) {
        self.0.copy_within(at..MAX, at + 1);
        self.0[at] = head;
    }

    fn remove(&mut self, at: usize) {
        self.0.copy_within(at + 1.., at);
        self.0[MAX] = u64::MAX;
    }

    fn split_off(&mut self, at: usize) -> Self {
        let mut upper = Self::NONE;
        let (lower, rest) = self.0.split_at_mut(at);
        upper.0[..=MAX - lower.len()].copy_from_slice(rest);
        rest.fill(u64::MAX);
        upper
    }
}

/// Where `key` is, or where it belongs.
fn search<K: Key, V>(
    heads: &Heads,
    slots: &[Slot<K, V>],
    head: u64,
    key: &K,
) -> Result<usize, usize> {
    let mut at = heads.below(head);
    while let Some(slot) = slots.get(at)
        && heads.0[at] == head
    {
        match slot.key.cmp(key) {
            Ordering::Less => at += 1,
            Ordering::Equal => return Ok(at),
            Ordering::Greater => break,
        }
    }
    Err(at)
}

/// The child whose range contains `key`.
fn child_at<K: Key, V>(heads: &Heads, slots: &[Slot<K, V>], head: u64, key: &K) -> usize {
    let mut behind = heads.below(head).max(1);
    while let Some(slot) = slots.get(behind)
        && heads.0[behind] == head
        && slot.key <= *key
    {
        behind += 1;
    }
    behind - 1
}

impl<K: Key, V: Clone> Node<K, V> {
    fn new(body: Body<K, V>) -> Self {
        let mut node = Self {
            skip: 0,
            heads: Heads::NONE,
            body,
        };
        node.fit(0);
        node
    }

    fn len(&self) -> usize {
        match &self.body {
            Body::Leaf(slots) => slots.len(),
            Body::Inner(slots) => slots.len(),
        }
    }

    fn fit(&mut self, skip: usize) {
        self.skip = skip;
        self.heads = Heads::NONE;
        let heads = self.heads.0.iter_mut();
        match &self.body {
            Body::Leaf(slots) => heads
                .zip(slots)
                .for_each(|(head, slot)| *head = slot.key.head(skip)),
            Body::Inner(slots) => {
                heads
                    .zip(slots)
                    .for_each(|(head, slot)| *head = slot.key.head(skip));
                self.heads.0[0] = 0;
            }
        }
    }

    fn first_key(&self) -> Option<&K> {
        match &self.body {
            Body::Leaf(slots) => slots.first().map(|slot| &slot.key),
            Body::Inner(slots) => slots.first().map(|slot| &slot.key),
        }
    }

    /// Keeps the lower half and gives the upper.
    fn split(&mut self) -> Self {
        let half = self.len() / 2;
        let mut heads = self.heads.split_off(half);
        let body = match &mut self.body {
            Body::Leaf(slots) => Body::Leaf(slots.split_off(half)),
            Body::Inner(slots) => {
                heads.0[0] = 0;
                Body::Inner(slots.split_off(half))
            }
        };
        Self {
            skip: self.skip,
            heads,
            body,
        }
    }

    /// Takes all that is in its right neighbour, whose lower bound is `bound`. Its heads do not fit
    /// afterwards.
    fn join(&mut self, right: Self, bound: &K) {
        match (&mut self.body, right.body) {
            (Body::Leaf(left), Body::Leaf(mut right)) => left.append(&mut right),
            (Body::Inner(left), Body::Inner(mut right)) => {
                // The first key of a node was not needed; now it separates.
                if let Some(first) = right.first_mut() {
                    first.key = bound.clone();
                }
                left.append(&mut right);
            }
            // All leaves are at the same depth.
            (Body::Leaf(_), Body::Inner(_)) | (Body::Inner(_), Body::Leaf(_)) => {}
        }
    }

    /// Finds the place of `key`, lets `work` change its leaf there, and mends the nodes above.
    fn visit<R>(&mut self, key: &K, work: impl FnOnce(Place<'_, K, V>) -> R) -> R {
        let (skip, head) = (self.skip, key.head(self.skip));
        let heads = &mut self.heads;
        match &mut self.body {
            Body::Leaf(slots) => {
                let at = search(heads, slots, head, key);
                work(Place {
                    heads,
                    slots,
                    at,
                    head,
                })
            }
            Body::Inner(slots) => {
                let at = child_at(heads, slots, head, key);
                let child = Arc::make_mut(&mut slots[at].value);
                let result = child.visit(key, work);
                let len = child.len();
                if len > MAX {
                    split_child(heads, slots, skip, at);
                } else if len < MIN {
                    join_child(heads, slots, skip, at);
                }
                result
            }
        }
    }
}

/// Where in a leaf a key is, or belongs.
struct Place<'a, K, V> {
    heads: &'a mut Heads,
    slots: &'a mut Vec<Slot<K, V>>,
    at: Result<usize, usize>,
    head: u64,
}

impl<K, V> Place<'_, K, V> {
    fn value(&mut self) -> Option<&mut V> {
        let at = self.at.ok()?;
        self.slots.get_mut(at).map(|slot| &mut slot.value)
    }

    /// Only where there is none.
    fn insert(self, key: K, value: V) {
        if let Err(at) = self.at {
            self.heads.insert(at, self.head);
            self.slots.insert(at, Slot { key, value });
        }
    }

    fn remove(self) -> Option<V> {
        let at = self.at.ok()?;
        self.heads.remove(at);
        Some(self.slots.remove(at).value)
    }
}

/// How many bytes the heads in a child can leave out.
fn skip_of_child<K: Key, V>(slots: &Children<K, V>, skip: usize, at: usize) -> usize {
    match (slots.get(at), slots.get(at + 1)) {
        (Some(lower), Some(upper)) if at > 0 => lower.key.shared_bytes(&upper.key),
        // One of its bounds is that of its parent.
        _ => skip,
    }
}

fn split_child<K: Key, V: Clone>(
    heads: &mut Heads,
    slots: &mut Children<K, V>,
    skip: usize,
    at: usize,
) {
    let upper = Arc::make_mut(&mut slots[at].value).split();
    let Some(key) = upper.first_key().cloned() else {
        return;
    };
    heads.insert(at + 1, key.head(skip));
    let value = Arc::new(upper);
    slots.insert(at + 1, Slot { key, value });
    for at in [at, at + 1] {
        let skip = skip_of_child(slots, skip, at);
        if slots[at].value.skip != skip {
            Arc::make_mut(&mut slots[at].value).fit(skip);
        }
    }
}

/// Joins a child with a neighbour, or moves some of the neighbour's slots to it.
fn join_child<K: Key, V: Clone>(
    heads: &mut Heads,
    slots: &mut Children<K, V>,
    skip: usize,
    at: usize,
) {
    if slots.len() < 2 {
        return;
    }
    let at = at.saturating_sub(1);
    heads.remove(at + 1);
    let right = slots.remove(at + 1);
    let left = Arc::make_mut(&mut slots[at].value);
    left.join(Arc::unwrap_or_clone(right.value), &right.key);
    let is_split = left.len() > MAX / 4 * 3;
    if is_split {
        split_child(heads, slots, skip, at);
    }
    for at in at..=at + usize::from(is_split) {
        let skip = skip_of_child(slots, skip, at);
        Arc::make_mut(&mut slots[at].value).fit(skip);
    }
}

impl<K, V> Default for Tree<K, V> {
    fn default() -> Self {
        Self { root: None, len: 0 }
    }
}

impl<K: Key, V: Clone> Tree<K, V> {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        let mut node = self.root.as_deref()?;
        loop {
            let head = key.head(node.skip);
            match &node.body {
                Body::Inner(slots) => {
                    node = &slots[child_at(&node.heads, slots, head, key)].value;
                }
                Body::Leaf(slots) => {
                    let at = search(&node.heads, slots, head, key).ok()?;
                    return Some(&slots[at].value);
                }
            }
        }
    }

    pub(crate) fn contains_key(&self, key: &K) -> bool {
        self.get(key).is_some()
    }

    /// Copies the nodes on the way when they are shared, also when the key is not there.
    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        let mut node = Arc::make_mut(self.root.as_mut()?);
        loop {
            let head = key.head(node.skip);
            match &mut node.body {
                Body::Inner(slots) => {
                    let at = child_at(&node.heads, slots, head, key);
                    node = Arc::make_mut(&mut slots[at].value);
                }
                Body::Leaf(slots) => {
                    let at = search(&node.heads, slots, head, key).ok()?;
                    return Some(&mut slots[at].value);
                }
            }
        }
    }

    /// The value that was there before.
    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let before = self.visit(&key.clone(), |mut place| {
            if let Some(old) = place.value() {
                return Some(std::mem::replace(old, value));
            }
            place.insert(key, value);
            None
        });
        self.len += usize::from(before.is_none());
        before
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        let removed = self.visit(key, |place| place.remove());
        self.len -= usize::from(removed.is_some());
        removed
    }

    /// Changes the value of `key`, a new one if there is none, and removes it unless `change` says
    /// that it is to be kept.
    pub(crate) fn alter(&mut self, key: &K, change: impl FnOnce(&mut V) -> bool)
    where
        V: Default,
    {
        let (was_there, is_kept) = self.visit(key, |mut place| {
            if let Some(value) = place.value() {
                let is_kept = change(value);
                if !is_kept {
                    place.remove();
                }
                return (true, is_kept);
            }
            let mut value = V::default();
            let is_kept = change(&mut value);
            if is_kept {
                place.insert(key.clone(), value);
            }
            (false, is_kept)
        });
        self.len += usize::from(is_kept);
        self.len -= usize::from(was_there);
    }

    fn visit<R>(&mut self, key: &K, work: impl FnOnce(Place<'_, K, V>) -> R) -> R {
        let root = self
            .root
            .get_or_insert_with(|| Arc::new(Node::new(Body::Leaf(Vec::new()))));
        let node = Arc::make_mut(root);
        let result = node.visit(key, work);
        let len = node.len();
        if len > MAX {
            self.grow();
        } else if len < 2 {
            self.shrink();
        }
        result
    }

    /// Puts a new root above one that is too long.
    fn grow(&mut self) {
        let Some(value) = self.root.take() else {
            return;
        };
        let Some(key) = value.first_key().cloned() else {
            return;
        };
        let mut root = Node::new(Body::Inner(vec![Slot { key, value }]));
        if let Body::Inner(slots) = &mut root.body {
            split_child(&mut root.heads, slots, 0, 0);
        }
        self.root = Some(Arc::new(root));
    }

    /// Takes away a root with one child, or with nothing.
    fn shrink(&mut self) {
        let Some(root) = &self.root else { return };
        match &root.body {
            Body::Leaf(slots) if slots.is_empty() => self.root = None,
            Body::Leaf(_) => {}
            Body::Inner(slots) => self.root = slots.first().map(|slot| slot.value.clone()),
        }
    }

    pub(crate) fn first(&self) -> Option<(&K, &V)> {
        let mut node = self.root.as_deref()?;
        loop {
            match &node.body {
                Body::Inner(slots) => node = &slots.first()?.value,
                Body::Leaf(slots) => return slots.first().map(|slot| (&slot.key, &slot.value)),
            }
        }
    }

    pub(crate) fn last(&self) -> Option<(&K, &V)> {
        let mut node = self.root.as_deref()?;
        loop {
            match &node.body {
                Body::Inner(slots) => node = &slots.last()?.value,
                Body::Leaf(slots) => return slots.last().map(|slot| (&slot.key, &slot.value)),
            }
        }
    }

    pub(crate) fn iter(&self) -> Iter<'_, K, V> {
        self.iter_from(|_| false)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// From the first key that is not `before`; keys that are must come before those that are not.
    pub(crate) fn iter_from(&self, before: impl Fn(&K) -> bool) -> Iter<'_, K, V> {
        let mut iter = Iter {
            above: Vec::new(),
            leaf: [].iter(),
        };
        let mut next = self.root.as_deref();
        while let Some(node) = next.take() {
            match &node.body {
                Body::Inner(slots) => {
                    let behind_first = slots.get(1..).unwrap_or_default();
                    let at = behind_first.partition_point(|slot| before(&slot.key));
                    let mut rest = slots.get(at..).unwrap_or_default().iter();
                    next = rest.next().map(|slot| slot.value.as_ref());
                    iter.above.push(rest);
                }
                Body::Leaf(slots) => {
                    let at = slots.partition_point(|slot| before(&slot.key));
                    iter.leaf = slots.get(at..).unwrap_or_default().iter();
                }
            }
        }
        iter
    }

    /// How many keys come before `key`. Takes time in proportion to their number.
    pub(crate) fn rank(&self, key: &K) -> usize {
        self.iter().take_while(|(other, _)| *other < key).count()
    }
}

type Slots<'a, K, V> = std::slice::Iter<'a, Slot<K, V>>;

/// Iterates in the order of the keys.
pub(crate) struct Iter<'a, K, V> {
    /// What comes after, from the root down.
    above: Vec<Slots<'a, K, Child<K, V>>>,
    leaf: Slots<'a, K, V>,
}

impl<'a, K, V> Iterator for Iter<'a, K, V> {
    type Item = (&'a K, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(slot) = self.leaf.next() {
                return Some((&slot.key, &slot.value));
            }
            let mut node = loop {
                match self.above.last_mut()?.next() {
                    Some(slot) => break slot.value.as_ref(),
                    None => self.above.pop(),
                };
            };
            loop {
                match &node.body {
                    Body::Inner(slots) => {
                        let mut rest = slots.iter();
                        let first = rest.next();
                        self.above.push(rest);
                        match first {
                            Some(slot) => node = &slot.value,
                            None => break,
                        }
                    }
                    Body::Leaf(slots) => {
                        self.leaf = slots.iter();
                        break;
                    }
                }
            }
        }
    }
}

impl<K: Key, V: Clone + PartialEq> PartialEq for Tree<K, V> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<K: Key, V: Clone + Eq> Eq for Tree<K, V> {}

impl<K: Key + std::fmt::Debug, V: Clone + std::fmt::Debug> std::fmt::Debug for Tree<K, V> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::LockName;

    /// Every path is as deep, every node as long and every key where it should be; heads leave out
    /// only what the keys have in common.
    fn check<K: Key + std::fmt::Debug, V: Clone>(tree: &Tree<K, V>) {
        fn walk<K: Key + std::fmt::Debug, V: Clone>(
            node: &Node<K, V>,
            lower: Option<&K>,
            upper: Option<&K>,
            is_root: bool,
        ) -> (usize, usize) {
            assert!(node.len() <= MAX);
            assert!(is_root || node.len() >= MIN);
            assert!(node.heads.0[..node.len()].is_sorted());
            assert!(
                node.heads.0[node.len()..]
                    .iter()
                    .all(|head| *head == u64::MAX)
            );
            let in_range = |key: &K| {
                assert!(
                    lower.is_none_or(|lower| lower <= key),
                    "{key:?} < {lower:?}"
                );
                assert!(
                    upper.is_none_or(|upper| key < upper),
                    "{key:?} >= {upper:?}"
                );
            };
            match &node.body {
                Body::Leaf(slots) => {
                    assert!(slots.is_sorted_by(|a, b| a.key < b.key));
                    for (slot, head) in slots.iter().zip(node.heads.0) {
                        in_range(&slot.key);
                        assert_eq!(head, slot.key.head(node.skip));
                    }
                    (1, slots.len())
                }
                Body::Inner(slots) => {
                    assert!(slots.len() > 1);
                    assert!(slots[1..].is_sorted_by(|a, b| a.key < b.key));
                    slots[1..].iter().for_each(|slot| in_range(&slot.key));
                    let (mut depths, mut total) = (Vec::new(), 0);
                    for (at, slot) in slots.iter().enumerate() {
                        let head = if at == 0 { 0 } else { slot.key.head(node.skip) };
                        assert_eq!(node.heads.0[at], head);
                        let lower = if at == 0 { lower } else { Some(&slot.key) };
                        let upper = slots.get(at + 1).map_or(upper, |next| Some(&next.key));
                        let (depth, len) = walk(&slot.value, lower, upper, false);
                        depths.push(depth);
                        total += len;
                    }
                    assert!(depths.iter().all(|depth| *depth == depths[0]));
                    (depths[0] + 1, total)
                }
            }
        }
        let len = tree
            .root
            .as_ref()
            .map_or(0, |root| walk(root, None, None, true).1);
        assert_eq!(len, tree.len());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Insert(u32),
        InsertRun(u32, u32),
        Remove(u32),
        RemoveRun(u32, u32),
        Alter(u32, bool),
        Copy,
    }

    /// Some have nothing in common, most much.
    fn name(n: u32) -> LockName {
        let of = ["a", "tenants", "z"][n as usize % 3];
        LockName::new(&format!("{of}/{}/jobs/{n:04}", n % 7)).unwrap()
    }

    fn step() -> impl Strategy<Value = Step> {
        let n = || 0..3_000_u32;
        prop_oneof![
            4 => n().prop_map(Step::Insert),
            2 => (n(), 1..400_u32).prop_map(|(from, len)| Step::InsertRun(from, len)),
            4 => n().prop_map(Step::Remove),
            2 => (n(), 1..400_u32).prop_map(|(from, len)| Step::RemoveRun(from, len)),
            2 => (n(), any::<bool>()).prop_map(|(n, keep)| Step::Alter(n, keep)),
            1 => Just(Step::Copy),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 120, ..ProptestConfig::default() })]

        #[test]
        fn a_tree_is_a_sorted_map_and_its_copies_never_change(steps in vec(step(), 1..60)) {
            let mut tree = Tree::<LockName, u32>::default();
            let mut map = BTreeMap::new();
            let mut copies = Vec::new();
            for (value, step) in (0..).zip(steps) {
                match step {
                    Step::Insert(n) => prop_assert_eq!(
                        tree.insert(name(n), value),
                        map.insert(name(n), value)
                    ),
                    Step::InsertRun(from, len) => (from..from + len).for_each(|n| {
                        assert_eq!(tree.insert(name(n), value), map.insert(name(n), value));
                    }),
                    Step::Remove(n) => prop_assert_eq!(tree.remove(&name(n)), map.remove(&name(n))),
                    Step::RemoveRun(from, len) => (from..from + len).for_each(|n| {
                        assert_eq!(tree.remove(&name(n)), map.remove(&name(n)));
                    }),
                    Step::Alter(n, keep) => {
                        tree.alter(&name(n), |altered| {
                            assert_eq!(*altered, map.get(&name(n)).copied().unwrap_or_default());
                            *altered = value;
                            keep
                        });
                        map.remove(&name(n));
                        if keep {
                            map.insert(name(n), value);
                        }
                    }
                    Step::Copy => copies.push((tree.clone(), map.clone())),
                }
                check(&tree);
                prop_assert!(tree.iter().eq(map.iter()));
                prop_assert!(tree.keys().eq(map.keys()) && tree.values().eq(map.values()));
                prop_assert_eq!(tree.first(), map.first_key_value());
                prop_assert_eq!(tree.last(), map.last_key_value());
                let some = name(value * 37 % 3_000);
                prop_assert_eq!(tree.get(&some), map.get(&some));
                prop_assert_eq!(tree.get_mut(&some), map.get_mut(&some));
                prop_assert_eq!(tree.contains_key(&some), map.contains_key(&some));
                prop_assert_eq!(tree.rank(&some), map.range(..&some).count());
                prop_assert!(tree.iter_from(|key| *key < some).eq(map.range(&some..)));
            }
            for (tree, map) in copies {
                check(&tree);
                prop_assert!(tree.iter().eq(map.iter()));
            }
        }
    }

    #[test]
    fn a_large_tree_can_be_taken_apart_in_any_order() {
        for stride in [1, 7_919, 19_999] {
            let mut tree = Tree::<LockName, ()>::default();
            (0..20_000_u32).for_each(|n| assert_eq!(tree.insert(name(n), ()), None));
            check(&tree);
            for n in 0..20_000_u32 {
                let n = u32::try_from(u64::from(n) * stride % 20_000).unwrap();
                assert_eq!(tree.remove(&name(n)), Some(()));
                if n % 64 == 0 {
                    check(&tree);
                }
            }
            assert!(tree.is_empty() && tree.root.is_none());
        }
    }

    #[test]
    fn trees_are_equal_when_they_hold_the_same_in_whatever_shape() {
        let of = |keys: &[u32]| {
            let mut tree = Tree::<LockName, u32>::default();
            keys.iter().for_each(|n| {
                tree.insert(name(*n), 1);
            });
            tree
        };
        let all: Vec<u32> = (0..100).collect();
        let backwards: Vec<u32> = (0..100).rev().collect();
        assert_eq!(of(&all), of(&backwards));
        assert_ne!(of(&all), of(&all[..99]));
        assert_ne!(of(&all[..99]), of(&all[1..]));
        let mut other = of(&all);
        *other.get_mut(&name(7)).unwrap() = 2;
        assert_ne!(of(&all), other);
        assert_eq!(
            format!("{:?}", of(&[0])),
            "{LockName(\"a/0/jobs/0000\"): 1}"
        );
    }

    /// How many slots each leaf has, from the left; for a tree of two levels.
    fn leaves(tree: &Tree<LockName, ()>) -> Vec<usize> {
        match &tree.root.as_ref().unwrap().body {
            Body::Leaf(slots) => vec![slots.len()],
            Body::Inner(slots) => slots.iter().map(|slot| slot.value.len()).collect(),
        }
    }

    #[test]
    fn a_node_is_split_above_24_and_joined_below_6() {
        let name = |n: u32| LockName::new(&format!("{n:04}")).unwrap();
        let mut tree = Tree::<LockName, ()>::default();
        for n in 0..37 {
            tree.insert(name(n), ());
            let expected = match n as usize + 1 {
                all @ ..=24 => vec![all],
                all @ ..=36 => vec![12, all - 12],
                all => vec![12, 12, all - 24],
            };
            assert_eq!(leaves(&tree), expected);
        }
        let mut remove = |n: u32, expected: &[usize]| {
            tree.remove(&name(n)).unwrap();
            assert_eq!(leaves(&tree), expected, "without {n}");
        };
        for (n, left) in (0..6).zip((6..12).rev()) {
            remove(n, &[left, 12, 13]);
        }
        // 5 and 12 make 17, which are not split again.
        remove(6, &[17, 13]);
        for (n, left) in (7..18).zip((6..17).rev()) {
            remove(n, &[left, 13]);
        }
        // Nor are 18; and a root with one child is no root.
        remove(18, &[18]);
    }

    #[test]
    fn heads_leave_out_what_all_keys_of_a_node_have_in_common() {
        let name = |n: u32| LockName::new(&format!("tenants/jobs/{n:04}")).unwrap();
        let mut tree = Tree::<LockName, ()>::default();
        (0..200).for_each(|n| assert_eq!(tree.insert(name(n), ()), None));
        let Body::Inner(slots) = &tree.root.as_ref().unwrap().body else {
            panic!("200 keys are more than a leaf");
        };
        assert!(slots.len() > 3);
        for pair in slots[1..].windows(2) {
            let common = pair[0].key.shared_bytes(&pair[1].key);
            assert!(common >= "tenants/jobs/0".len());
            assert_eq!(pair[0].value.skip, common);
        }
    }

    #[test]
    fn heads_are_ordered_as_bytes_are() {
        for (less, more) in [("", "a"), ("a", "aa"), ("abcdefgh", "abcdefgi"), ("Z", "a")] {
            assert!(head_of_bytes(less.as_bytes()) < head_of_bytes(more.as_bytes()));
        }
        assert_eq!(head_of_bytes(b"abcdefgh"), head_of_bytes(b"abcdefghij"));
    }
}
