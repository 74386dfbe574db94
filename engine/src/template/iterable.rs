//! What can be walked over and is no list: generators, and parts cut out of lists.

use minijinja::Value;
use minijinja::value::{Enumerator, Object, ObjectRepr, ValueKind};
use std::sync::Arc;

/// Python's generator, which `select`, `map` and their like return: it can be walked and listed, not measured or written.
#[derive(Debug)]
pub(super) struct Generator(Vec<Value>);

impl Generator {
    /// One of these values.
    pub(super) fn of(values: Vec<Value>) -> Value {
        Value::from_object(Generator(values))
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let this = self.clone();
        Enumerator::Iter(Box::new((0..this.0.len()).filter_map(move |i| this.0.get(i).cloned())))
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }
}

/// Whether this is a part cut out of a list, which minijinja makes a lazy iterable, and not a generator.
pub(super) fn is_slice(value: &Value) -> bool {
    value.kind() == ValueKind::Iterable && value.downcast_object_ref::<Generator>().is_none()
}
