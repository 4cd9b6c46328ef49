// Package docs reads the pages for readers, and the commands in them, for tests that compare the
// pages with the code.
package docs

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Pages returns the text of README.md, of CONTRIBUTING.md and of each page in docs, by its path
// in the repository, whose folder is root.
func Pages(root string) (map[string]string, error) {
	names, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	pages := make(map[string]string)
	for _, name := range append(names, filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md")) {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		page, err := filepath.Rel(root, name)
		if err != nil {
			return nil, err
		}
		pages[filepath.ToSlash(page)] = string(text)
	}
	return pages, nil
}

var (
	fence  = regexp.MustCompile("(?ms)^( *)```(\\w*)\\n(.*?)^ *```$")
	inline = regexp.MustCompile("`([^`\n]+)`")
)

// A Block is a block of code in a page.
type Block struct {
	Language string // empty for what a program prints
	Text     string // without the indent of a list
}

// Blocks returns the blocks of code in a page.
func Blocks(page string) (all []Block) {
	for _, m := range fence.FindAllStringSubmatch(page, -1) {
		all = append(all, Block{m[2], strings.TrimPrefix(strings.ReplaceAll("\n"+m[3], "\n"+m[1], "\n"), "\n")})
	}
	return all
}

// Outside returns a page without its blocks of code.
func Outside(page string) string { return fence.ReplaceAllString(page, "") }

// Prose returns a page without its code: neither blocks nor what stands between backticks.
func Prose(page string) string { return inline.ReplaceAllString(Outside(page), "") }

// Inline returns what stands between backticks in a page, each once.
func Inline(page string) (all []string) {
	seen := make(map[string]bool)
	for _, m := range inline.FindAllStringSubmatch(Outside(page), -1) {
		if !seen[m[1]] {
			seen[m[1]] = true
			all = append(all, m[1])
		}
	}
	return all
}

// A Command is a command in a page, of a block of sh or between backticks.
type Command struct {
	Words   []string // without quotes, redirections and comments
	Env     []string // variables that are set for it
	Dir     string   // of the cd before it, empty if there is none
	Section string   // the text between two headings in which it stands
	Inline  bool
}

func (c Command) String() string { return strings.Join(c.Words, " ") }

var section = regexp.MustCompile(`(?m)^#+ `)

// Commands returns the commands in a page: those of blocks of sh, and what stands between
// backticks and begins with one of programs.
func Commands(page string, programs ...string) (all []Command) {
	begins := make(map[string]bool)
	for _, p := range programs {
		begins[p] = true
	}
	for _, part := range sections(page) {
		for _, b := range Blocks(part) {
			if b.Language == "sh" {
				all = append(all, Script(b.Text, part)...)
			}
		}
		for _, text := range Inline(part) {
			if first, _, _ := strings.Cut(text, " "); !begins[first] {
				continue
			}
			for _, c := range Script(text, part) {
				c.Inline = true
				all = append(all, c)
			}
		}
	}
	return all
}

// sections cuts a page before each heading. A comment in a block of sh looks like one, so blocks
// are hidden meanwhile.
func sections(page string) (all []string) {
	hidden := fence.ReplaceAllStringFunc(page, func(block string) string { return strings.Repeat("x", len(block)) })
	from := 0
	for _, at := range section.FindAllStringIndex(hidden, -1) {
		all, from = append(all, page[from:at[0]]), at[0]
	}
	return append(all, page[from:])
}

var assignment = regexp.MustCompile(`^[A-Z][A-Z_]*=`)

// Script splits a script into its commands.
func Script(text, section string) (all []Command) {
	dir := ""
	for _, words := range split(text) {
		c := Command{Dir: dir, Section: section}
		for len(words) > 0 && assignment.MatchString(words[0]) {
			c.Env, words = append(c.Env, words[0]), words[1:]
		}
		switch {
		case len(words) == 2 && words[0] == "cd":
			dir = words[1]
		case len(words) > 0:
			c.Words = words
			all = append(all, c)
		}
	}
	return all
}

// split returns the words of each command, as far as pages need a shell: quotes, comments, lines
// that go on, redirections, and what is between two commands.
func split(text string) (commands [][]string) {
	var (
		words  []string
		word   strings.Builder
		inWord bool // also if it is empty so far, as in ''
		toFile bool // the next word is a file
	)
	endWord := func() {
		if inWord && !toFile {
			words = append(words, word.String())
		}
		toFile = toFile && !inWord
		inWord = false
		word.Reset()
	}
	end := func() {
		if endWord(); len(words) > 0 {
			commands, words = append(commands, words), nil
		}
	}
	text = strings.ReplaceAll(text, "\\\n", " ")
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '\'' || c == '"':
			length := strings.IndexByte(text[i+1:], c)
			if length < 0 {
				length = len(text) - i - 1
			}
			word.WriteString(text[i+1 : i+1+length])
			inWord, i = true, i+1+length
		case c == '#' && !inWord:
			for i+1 < len(text) && text[i+1] != '\n' {
				i++
			}
		case c == ' ' || c == '\t':
			endWord()
		case c == '\n' || c == ';' || c == '&' || c == '|':
			end()
		case c == '>':
			endWord()
			toFile = true
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	end()
	return commands
}
