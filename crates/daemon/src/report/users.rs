//! Names of users.

use std::collections::BTreeMap;

/// The users of this host as `/etc/passwd` names them, read at the first question.
///
/// ```
/// use millpond_daemon::report::Users;
/// let mut users = Users::default();
/// assert_eq!(users.name(u32::MAX - 1), (u32::MAX - 1).to_string());
/// ```
#[derive(Debug, Default)]
pub struct Users {
    names: Option<BTreeMap<u32, String>>,
}

impl Users {
    /// The user's name; the number where the file has none (a directory service, a container).
    pub fn name(&mut self, uid: u32) -> String {
        let names = self.names.get_or_insert_with(|| {
            let text = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            parse(&text)
        });
        names.get(&uid).cloned().unwrap_or_else(|| uid.to_string())
    }
}

fn parse(text: &str) -> BTreeMap<u32, String> {
    let mut names = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split(':');
        let (name, uid) = (fields.next(), fields.nth(1));
        if let (Some(name), Some(Ok(uid))) = (name, uid.map(str::parse)) {
            // The first of several names is the one that the system shows.
            names.entry(uid).or_insert_with(|| name.to_owned());
        }
    }
    names
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_first_name_of_a_number_counts_and_nonsense_is_stepped_over() {
        let text =
            "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\n# note\nbad:x:y:\ndeploy:x:1000:";
        let names = super::parse(text);
        assert_eq!(names.len(), 2);
        assert_eq!(names[&0], "root");
        assert_eq!(names[&1000], "deploy");
    }
}
