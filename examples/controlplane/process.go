package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"time"
)

// process is this program in another role.
type process struct {
	name string
	cmd  *exec.Cmd
	said chan struct{} // closed when its output has ended
	told shown         // by its page, when it was printed last

	mu    sync.Mutex
	lines []string // of its output
}

// start runs this program in a role, and reads what it prints.
func start(name string, args ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &process{name: name, cmd: exec.Command(self, args...), said: make(chan struct{})}
	p.cmd.Stderr = os.Stderr
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go p.read(out) // until the process has ended
	return p, nil
}

func (p *process) read(out io.Reader) {
	defer close(p.said)
	for lines := bufio.NewScanner(out); lines.Scan(); {
		p.mu.Lock()
		p.lines = append(p.lines, lines.Text())
		p.mu.Unlock()
	}
}

// kill ends the process without a word, and waits until it has.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.said
	_ = p.cmd.Wait() // it was killed
}

// find returns the last line that has a text in it, or nothing.
func (p *process) find(text string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, line := range slices.Backward(p.lines) {
		if strings.Contains(line, text) {
			return line
		}
	}
	return ""
}

// last returns the newest report of a client.
func (p *process) last() (r report) {
	_ = json.Unmarshal([]byte(p.find("{")), &r) // before the first line there is none
	return r
}

// patience is how long a step may take.
const patience = time.Minute

// await waits until ok, and returns how long that took.
func await(what string, ok func() bool) (time.Duration, error) {
	start := time.Now()
	for range time.Tick(10 * time.Millisecond) {
		if ok() {
			break
		}
		if time.Since(start) > patience {
			return 0, fmt.Errorf("%s: not within %v", what, patience)
		}
	}
	return time.Since(start), nil
}
