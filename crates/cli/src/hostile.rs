//! What must hold for any bytes in the files that others write: the configuration, a services file, what is
//! imported. One function for each, which panics where something does not hold; libFuzzer runs them (`cargo xtask fuzz`),
//! and an ordinary test with inputs of its own.

use std::path::Path;

use millpond_bus::RuleTable;

use crate::config::File;

pub use crate::commands::capture::services::hostile as services;
pub use crate::commands::import::hostile::import;

/// A configuration: read, or refused with words that name the file.
///
/// # Panics
/// Where it is neither.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let path = Path::new("hostile.toml");
    let refused = |failure: &crate::outcome::Failure| {
        let words = failure.to_string();
        assert!(words.contains("hostile.toml"), "{words}");
    };
    let file = match File::parse(text, path) {
        Ok(file) => file,
        Err(failure) => return refused(&failure),
    };
    match file.rule_table(path) {
        // What is in force can be put in force again: the table says what is wrong with it itself.
        Ok(table) => {
            let again = RuleTable::new(table.iter().cloned().collect());
            assert!(again.is_ok_and(|again| again.len() == table.len()));
        }
        Err(failure) => refused(&failure),
    }
    match file.services(path) {
        Ok(services) => {
            let names = services.names().count();
            assert_eq!(services.reductions().services.len() + 1, names);
            assert!(services.policies().len() < names);
        }
        Err(failure) => refused(&failure),
    }
}

/// Configurations that get far.
pub fn config_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "bus = \"default\"\nlogs = \"/tmp/x\"\nsync = \"interval\"\nsegment-bytes = \"64MiB\"\nkeep-segments = 3\nseal = 3\n",
        "[[rule]]\npattern = \"data:*\"\nclass = \"batch\"\nmax-events = 10\nmax-delay = \"20ms\"\nlane-bytes = \"1MiB\"\n\
         [[rule]]\npattern = \"log:*\"\nservice = \"*\"\noverflow = \"block\"\nblock-deadline = \"1s\"\n",
        "[[rule]]\npattern = \"a:*\"\nclass = \"conflate\"\nconflate-key = \"segment:2\"\noutbox-bytes = \"64KiB\"\n\
         payload-bytes-limit = \"1KiB\"\n",
        "[[service]]\nname = \"*\"\nrepeats = true\n[[service]]\nname = \"web\"\nrate-limit = \"100/s\"\nsample = 10\nsync = \"always\"\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// Services files that get far.
pub fn services_seeds() -> Vec<Vec<u8>> {
    let texts = [
        "[[service]]\nname = \"web\"\ncommand = [\"serve\", \"--port\", \"80\"]\nafter = [\"db\"]\n\
         [[service]]\nname = \"db\"\ncommand = \"exec db\"\nrestart = \"always\"\nrestart-delay = \"1s\"\n",
        "[defaults]\nterminal = false\nlevel = \"info\"\nsize = \"80x24\"\nstop-signal = \"TERM\"\n\
         environment = { A = \"b\" }\n[[service]]\nname = \"x\"\ncommand = [\"é\"]\nraw-to = \"x.cast\"\n",
        "[[service]]\nname = \"a\"\ncommand = [\"a\"]\nafter = [\"b\"]\n[[service]]\nname = \"b\"\ncommand = [\"b\"]\nafter = [\"a\"]\n",
    ];
    texts.map(|text| text.as_bytes().to_vec()).to_vec()
}

/// Imports that get far.
pub fn import_seeds() -> Vec<Vec<u8>> {
    let entry = "__CURSOR=s=1\n__REALTIME_TIMESTAMP=1795224593123456\nPRIORITY=6\n_SYSTEMD_UNIT=web.service\n\
                 _TRANSPORT=stdout\nMESSAGE=listening\nCODE_FILE=x.c\n\n";
    let binary =
        b"__REALTIME_TIMESTAMP=1795224593123457\nMESSAGE\n\x04\0\0\0\0\0\0\0a\nb\n\n_COMM=x\n\n";
    vec![
        [b"\0", entry.as_bytes(), binary, entry.as_bytes()].concat(),
        b"\x01\x05\x1d\x04\x05\x00\x25text\x03\x05\x1d\x0a\x01\x02\x03\x04\x05\x06\x07\x08\x02\0\0\0\0\0\0\xf0\x3f"
            .to_vec(),
        b"\x02\x10\x00\xff\xff\x20\x00\x01\x02\x03\x04\x05\x06\x07\x08\x00\x01\x0d\x00\x7f".to_vec(),
    ]
}
