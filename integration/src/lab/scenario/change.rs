//! Other forms of a scenario: fields that `--set` and `--vary` change.

use toml::{Table, Value};

use super::read::{ScenarioError, unplaced};

/// A change to a scenario: a field, and what it is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The field, such as `plugins`, `network.loss` or `peers.leeches.count`: those in lists go by their name or number.
    pub field: String,
    /// Its new value, as in a file, but a text needs no quotes, and a list is written `a+b`.
    pub value: String,
}

impl Change {
    /// Makes the change.
    pub(super) fn apply(&self, table: &mut Table) -> Result<(), ScenarioError> {
        let missing = |what: &str| unplaced(&self.field, format!("there is no {what} in this scenario"));
        let (path, last) =
            self.field.rsplit_once('.').map_or((None, self.field.as_str()), |(path, last)| (Some(path), last));
        let mut place = table;
        let mut steps = path.map(|path| path.split('.')).into_iter().flatten();
        while let Some(step) = steps.next() {
            let next = place.entry(step).or_insert_with(|| Value::Table(Table::new()));
            place = match next {
                Value::Table(table) => table,
                Value::Array(list) => {
                    let name = steps.next().ok_or_else(|| missing(step))?;
                    let is_meant = |(at, item): &(usize, &mut Value)| {
                        item.get("name").and_then(Value::as_str) == Some(name) || name.parse() == Ok(*at)
                    };
                    let found = list.iter_mut().enumerate().find(is_meant).map(|(_, item)| item);
                    found.and_then(Value::as_table_mut).ok_or_else(|| missing(&format!("`{name}` among its {step}")))?
                }
                _ => return Err(missing(step)),
            };
        }
        place.insert(last.to_owned(), self.value(place.get(last), last));
        Ok(())
    }

    /// The value in the form of the one before.
    fn value(&self, before: Option<&Value>, field: &str) -> Value {
        let text = self.value.as_str();
        let is_list =
            matches!(before, Some(Value::Array(_))) || ["plugins", "knows", "part", "transports"].contains(&field);
        if is_list {
            let items = text.split('+').map(str::trim).filter(|item| !item.is_empty());
            return Value::Array(items.map(|item| Value::String(item.to_owned())).collect());
        }
        // `true`, 3 and 0.5 are what they look like; all else is text.
        let parsed = toml::from_str::<Table>(&format!("value = {text}")).ok();
        parsed.and_then(|mut table| table.remove("value")).unwrap_or_else(|| Value::String(text.to_owned()))
    }
}
