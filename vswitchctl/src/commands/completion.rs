//! `completion`: the shell's completion script, generated from the command tree.

use clap::{Args, CommandFactory, ValueEnum};
use clap_complete::Shell;
use serde_json::json;

use crate::Cli;
use crate::failure::Failure;
use crate::output::Output;

/// Print the completion script of a shell
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  vswitchctl completion bash > /etc/bash_completion.d/vswitchctl
  vswitchctl completion zsh > /usr/local/share/zsh/site-functions/_vswitchctl
  vswitchctl completion fish > ~/.config/fish/completions/vswitchctl.fish")]
pub(crate) struct Completion {
    /// The shell
    shell: Supported,
}

/// The shells that the contract names.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Supported {
    Bash,
    Zsh,
    Fish,
}

impl Completion {
    pub(super) fn exec(&self) -> Result<Output, Failure> {
        let shell = match self.shell {
            Supported::Bash => Shell::Bash,
            Supported::Zsh => Shell::Zsh,
            Supported::Fish => Shell::Fish,
        };
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "vswitchctl", &mut script);
        let script = String::from_utf8_lossy(&script);
        Output::new(script.clone(), &json!({ "shell": shell.to_string(), "script": script }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_know_the_commands() {
        for shell in [Supported::Bash, Supported::Zsh, Supported::Fish] {
            let output = Completion { shell }.exec().unwrap();
            for word in ["add-br", "fdb-flush", "ip-range"] {
                assert!(output.text.contains(word), "{shell:?} does not know {word}");
            }
        }
    }
}
