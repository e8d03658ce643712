//! Tables for people: columns, a line of headings, nothing else; the same with and without a terminal, but that long
//! cells are wrapped to its width.

use comfy_table::{CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

use super::text::plain;

/// A table that is being filled.
pub(crate) struct Rows {
    table: Table,
    is_empty: bool,
}

impl Rows {
    /// A table with these headings. One that begins with `>` makes a column of numbers, one with `=` a column of ids
    /// that are copied and hence never wrapped.
    pub(crate) fn new(headings: &[&str], width: Option<u16>) -> Self {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(headings.iter().map(|heading| heading.trim_start_matches(['>', '='])));
        if let Some(width) = width {
            table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
        }
        for (column, heading) in table.column_iter_mut().zip(headings) {
            column.set_padding((0, 2));
            if heading.starts_with('>') {
                column.set_cell_alignment(CellAlignment::Right);
            }
            if heading.starts_with('=') {
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        Self { table, is_empty: true }
    }

    /// Adds a row.
    pub(crate) fn push<const N: usize>(&mut self, cells: [String; N]) {
        self.is_empty = false;
        self.table.add_row(cells.iter().map(|cell| plain(cell)));
    }

    /// The table as text; `nothing` when it has no rows.
    pub(crate) fn finish(self, nothing: &str) -> String {
        if self.is_empty {
            return nothing.to_owned();
        }
        self.table.to_string().lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
    }
}

/// Names and values below each other, values in one column; pairs with an empty value are left out.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let shown = || pairs.iter().filter(|(_, value)| !value.is_empty());
    let width = shown().map(|(name, _)| name.len()).max().unwrap_or(0);
    shown().map(|(name, value)| format!("{name:<width$}  {}", plain(value))).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_whole_on_a_narrow_terminal() {
        let mut rows = Rows::new(&["TAGS", "=UUID"], Some(60));
        rows.push(["one two three four five six seven".to_owned(), "11111111-1111-4111-8111-111111111111".to_owned()]);
        let shown = rows.finish("none");
        assert!(shown.contains("11111111-1111-4111-8111-111111111111"), "{shown}");
        assert!(shown.lines().count() > 2 && shown.lines().all(|line| line.chars().count() <= 60), "{shown}");
    }

    #[test]
    fn columns_line_up_and_lines_end_with_their_text() {
        let mut rows = Rows::new(&["NAME", ">SIZE", "STATE"], None);
        rows.push(["web".to_owned(), "1.00 GiB".to_owned(), "Running".to_owned()]);
        rows.push(["database".to_owned(), "12 B".to_owned(), String::new()]);
        assert_eq!(rows.finish("none"), "NAME          SIZE  STATE\nweb       1.00 GiB  Running\ndatabase      12 B");
        assert_eq!(Rows::new(&["NAME"], None).finish("no pools"), "no pools");
        assert_eq!(
            pairs(&[("name", "lab".to_owned()), ("state", String::new()), ("hosts", "a".to_owned())]),
            "name   lab\nhosts  a"
        );
    }
}
