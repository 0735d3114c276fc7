"""Scripts that let a shell complete options and arguments, made from the parser. Pure."""

import argparse
import re
from collections.abc import Iterable
from shlex import quote

from btrfs_backup.cli.options import Option, groups

# Not by COMP_WORDS, for which Readline breaks words at '=' and '@'. What it puts in place of a word is behind the '=';
# it writes '@' with a backslash.
_BASH = """\
# bash completion for btrfs-backup

_btrfs_backup() {
    local line=${COMP_LINE:0:COMP_POINT} before
    local word=${line##*[[:space:]]}
    read -ra before <<<"${line%"$word"}"
    before=${before[-1]}
    if [[ $word == --*=* ]]; then
        before=${word%%=*}= word=${word#*=}
    fi
    COMPREPLY=()
    case $before in
{values}        *) case $word in
            -*) _btrfs_backup_words '{names}' ;;
            @*|\\\\@*) _btrfs_backup_file ;;
            *) compopt -o dirnames ;;
        esac ;;
    esac
}

_btrfs_backup_words() {
    mapfile -t COMPREPLY < <(compgen -W "$1" -- "$word")
}

_btrfs_backup_file() {
    local file
    compopt -o filenames -o nospace
    while IFS= read -r file; do
        [[ -d $file ]] && file+=/
        COMPREPLY+=("@$file")
    done < <(compgen -f -- "${word#*@}")
}

complete -F _btrfs_backup btrfs-backup
"""

_ZSH = """\
#compdef btrfs-backup
# zsh completion for btrfs-backup

_btrfs_backup_place() {
    if compset -P @; then
        _files
    else
        _files -/
    fi
}

_arguments -s -S{specs}
"""

_FISH = """\
# fish completion for btrfs-backup

function __btrfs_backup_place
    set -l word (commandline -ct)
    if string match -q '@*' -- $word
        __fish_complete_path (string sub -s 2 -- $word) | string replace -r '^' @
    else
        __fish_complete_directories $word
    end
end

complete -c btrfs-backup -f -a '(__btrfs_backup_place)'
{lines}"""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """What the SHELL, one of SHELLS, has to read."""
    return SHELLS[shell]([option for _, options in groups(parser) for option in options])


def _bash(everything: Iterable[Option]) -> str:
    options = [each for each in everything if each.names]
    values = "".join(f"        {_before(each)}) {_bash_value(each)} ;;\n" for each in options if each.value)
    names = " ".join(name for each in options for name in each.names)
    return _BASH.replace("{values}", values).replace("{names}", names)


def _before(option: Option) -> str:
    """A pattern for what comes before its value."""
    separate = () if option.optional else option.names
    return "|".join((*separate, *(f"{name}=" for name in option.names if name.startswith("--"))))


def _bash_value(option: Option) -> str:
    if option.choices:
        return f"_btrfs_backup_words '{' '.join(option.choices)}'"
    return "compopt -o dirnames" if option.is_folder else ""


def _zsh(everything: Iterable[Option]) -> str:
    specs = [quote(spec) for option in everything for spec in _zsh_specs(option)]
    return _ZSH.replace("{specs}", "".join(f" \\\n    {spec}" for spec in specs))


def _zsh_specs(option: Option) -> Iterable[str]:
    """For zshcompsys(1), _arguments: one for each name."""
    if not option.names:
        yield f"{'*' if option.repeated else '1'}:{option.value}:_btrfs_backup_place"
    excluded = "*" if option.repeated else f"({' '.join(option.names)})"
    action = f"({' '.join(option.choices)})" if option.choices else "_files -/" if option.is_folder else " "
    for name in option.names:
        joint = ("=" if name.startswith("--") else "+") if option.value else ""
        value = f":{_escaped(option.value)}:{action}" if option.value else ""
        # '=-' and '::': only behind a '=', and it may be missing.
        value, joint = (f":{value}", f"{joint}-") if option.optional else (value, joint)
        yield f"{excluded}{name}{joint}[{_escaped(option.brief)}]{value}"


def _escaped(text: str) -> str:
    return re.sub(r"([]\[:\\])", r"\\\1", text)


def _fish(everything: Iterable[Option]) -> str:
    lines = [_fish_line(option) for option in everything if option.names]
    return _FISH.replace("{lines}", "".join(f"complete -c btrfs-backup {line}\n" for line in lines))


def _fish_line(option: Option) -> str:
    names = [f"-l {name[2:]}" if name.startswith("--") else f"-s {name[1:]}" for name in option.names]
    words = [*names, "-f", f"-d {quote(option.brief)}"]
    if option.value and not option.optional:
        words.append("-r")
    if option.is_folder or option.choices:
        words.append(f"-a {quote('(__fish_complete_directories)' if option.is_folder else ' '.join(option.choices))}")
    return " ".join(words)


SHELLS = {"bash": _bash, "zsh": _zsh, "fish": _fish}
