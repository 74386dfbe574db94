//! Names near to one that there is not: for a slip of the finger the right one is offered.

/// Those of `names` that `word` may be meant for, the nearest first, at most three: what it begins, and what is a slip or two away.
pub(crate) fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let word = word.to_lowercase();
    let slips = (word.chars().count() / 3).clamp(1, 3);
    let far = |name: &str| {
        let lower = name.to_lowercase();
        if !word.is_empty() && lower.starts_with(&word) { 0 } else { distance(&word, &lower) }
    };
    let mut near: Vec<(usize, &str)> = names.into_iter().map(|name| (far(name), name)).filter(|(far, _)| *far <= slips).collect();
    near.sort();
    near.truncate(3);
    near.into_iter().map(|(_, name)| name).collect()
}

/// `a, b or c`.
pub(crate) fn either(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} or {last}", most.join(", ")),
    }
}

/// Insertions, deletions, changes and swaps of neighbours that make one of the other: the "optimal string alignment" distance.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = match (i, j) {
                (0, n) | (n, 0) => n,
                (i, j) => {
                    let changed = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                    let least = changed.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                    let swapped = i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1];
                    if swapped { least.min(rows[i - 2][j - 2] + 1) } else { least }
                }
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_forgiven_and_guesses_are_not_made() {
        let names = ["/undo", "/retry", "/edit", "/exit", "/branch", "/branches"];
        assert_eq!(nearest("/udno", names), ["/undo"]);
        assert_eq!(nearest("/eit", names), ["/edit", "/exit"]);
        assert_eq!(nearest("/bran", names), ["/branch", "/branches"]);
        assert!(nearest("/weather", names).is_empty());
        assert_eq!(either(&["a", "b", "c"]), "a, b or c");
        assert_eq!((distance("", "abc"), distance("kitten", "sitting"), distance("ab", "ba")), (3, 3, 1));
    }
}
