package controlplane_test

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/rego-go/rego/policy"
	"github.com/rego-go/rego/policy/controlplane"
	regov1 "github.com/rego-go/rego/proto/rego/v1"
)

var (
	load     = flag.Int("load", 100, "how many connections TestLoad makes")
	loadSize = flag.Int("load-size", 64<<10, "bytes of TestLoad's sets")
	loadDeaf = flag.Int("load-deaf", 10, "how many more connections never read")
)

// loadServer is the variable that makes this test binary the server of TestLoad.
const loadServer = "REGO_LOAD_SERVER"

func TestMain(m *testing.M) {
	if os.Getenv(loadServer) != "" {
		serveLoad()
		return
	}
	os.Exit(m.Run())
}

// serveLoad serves a store. Each line that it reads is a size, of a set to be served once
// another line has come, or "memory", which it answers with what it uses.
func serveLoad() {
	st := new(policy.Store)
	srv := controlplane.NewServer(st, nil)
	g := grpc.NewServer(controlplane.ServerOptions()...)
	regov1.RegisterPolicyDiscoveryServiceServer(g, srv)
	regov1.RegisterFleetServiceServer(g, srv.Fleet())
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() { _ = g.Serve(l) }() // until the process ends
	fmt.Println(l.Addr())
	in := bufio.NewScanner(os.Stdin)
	for n := 1; in.Scan(); n++ {
		if in.Text() == "memory" {
			fmt.Println(memory())
			continue
		}
		size, err := strconv.Atoi(in.Text())
		if err != nil {
			panic(err)
		}
		set := large(fmt.Sprint(n), size)
		fmt.Println(proto.Size(set.Proto()))
		in.Scan() // when the clock runs
		if err := st.Update(set); err != nil {
			panic(err)
		}
	}
}

// memory returns what the process has: processor time so far, resident now, resident at most, heap
// in use after a collection, stacks, and goroutines.
func memory() string {
	var used syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &used) // of the process itself it cannot fail
	cpu := time.Duration(used.Utime.Nano() + used.Stime.Nano()).Round(10 * time.Millisecond)
	now := procStatus("VmRSS")
	peak := procStatus("VmHWM")
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	debug.FreeOSMemory()
	return fmt.Sprintf("%v of the processor; resident %d MB, %d MB after a collection, %d MB at most; heap %d MB, stacks %d MB, %d goroutines",
		cpu, now>>10, procStatus("VmRSS")>>10, peak>>10, m.HeapAlloc>>20, m.StackInuse>>20, runtime.NumGoroutine())
}

// procStatus returns a line of /proc/self/status, in KiB; 0 where there is none.
func procStatus(key string) int {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, key+":"); ok {
			n, _ := strconv.Atoi(strings.Fields(rest)[0])
			return n
		}
	}
	return 0
}

// TestLoad pushes sets to many connections of a server that is a process of its own, and logs
// what that takes: 10,000 connections and a set of 1 MB.
//
//	go test ./policy/controlplane -run '^TestLoad$' -v -load 10000 -load-size 1000000 -load-deaf 100
//
// Its clients read frames and answer without a look at the set: what they would do with it,
// they do on machines of their own.
func TestLoad(t *testing.T) {
	for _, gzip := range []bool{true, false} {
		t.Run(fmt.Sprintf("gzip=%t", gzip), func(t *testing.T) { testLoad(t, gzip) })
	}
}

func testLoad(t *testing.T, gzip bool) {
	t.Helper()
	server := startLoad(t)
	server.prepare(2000)
	server.push()
	f := &loadFleet{gzip: gzip, acked: make(chan struct{}, 1)}
	t.Cleanup(f.close)
	start := time.Now()
	for i := range *load {
		f.dial(t, server.addr, i, true)
	}
	f.await(int64(*load))
	t.Logf("%d connections in %v: %s", *load, time.Since(start).Round(time.Millisecond), server.memory())
	push := func(what string) {
		f.answers.Store(0)
		size := server.prepare(*loadSize)
		start := time.Now()
		server.push()
		f.await(int64(*load))
		t.Logf("%s: a set of %s bytes answered by all in %v, %d MB read: %s", what, size,
			time.Since(start).Round(time.Millisecond), f.read.Swap(0)>>20, server.memory())
	}
	push("first push")
	push("second push")
	for i := range *loadDeaf {
		f.dial(t, server.addr, *load+i, false)
	}
	push(fmt.Sprintf("with %d that never read", *loadDeaf))
	push("once more")
	assert.Zero(t, f.failed.Load())
}

type loadProcess struct {
	addr string
	in   io.Writer
	out  *bufio.Scanner
}

func startLoad(t *testing.T) *loadProcess {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), loadServer+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close() // it ends then
		_ = cmd.Wait()
	})
	p := &loadProcess{in: in, out: bufio.NewScanner(out)}
	p.addr = p.line()
	return p
}

func (p *loadProcess) line() string {
	p.out.Scan()
	return p.out.Text()
}

// say writes a line. If the server has ended, the next answer is empty.
func (p *loadProcess) say(line string) { _, _ = io.WriteString(p.in, line+"\n") }

// prepare has the server make a set of that size, and returns the real one.
func (p *loadProcess) prepare(size int) string {
	p.say(strconv.Itoa(size))
	return p.line()
}

func (p *loadProcess) push() { p.say("push") }

func (p *loadProcess) memory() string {
	p.say("memory")
	return p.line()
}

// loadFleet is many clients in one process, each with a connection and a goroutine.
type loadFleet struct {
	gzip                  bool
	answers, read, failed atomic.Int64
	acked                 chan struct{}

	mu    sync.Mutex
	conns []net.Conn
}

func (f *loadFleet) await(n int64) {
	for f.answers.Load() < n && f.failed.Load() == 0 {
		<-f.acked
	}
}

func (f *loadFleet) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.conns {
		_ = c.Close()
	}
}

func (f *loadFleet) dial(t *testing.T, addr string, i int, reads bool) {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", addr)
	require.NoError(t, err)
	f.mu.Lock()
	f.conns = append(f.conns, conn)
	f.mu.Unlock()
	c := &loadClient{fleet: f, out: bufio.NewWriterSize(conn, 1<<10)}
	c.framer = http2.NewFramer(c.out, bufio.NewReaderSize(conn, 32<<10))
	require.NoError(t, c.hello(i))
	if !reads {
		return
	}
	go func() {
		if err := c.run(); err != nil && !errors.Is(err, net.ErrClosed) {
			f.failed.Add(1)
			f.signal()
		}
	}()
}

func (f *loadFleet) signal() {
	select {
	case f.acked <- struct{}{}:
	default:
	}
}

// loadClient speaks as much of HTTP/2 and gRPC as a client of one stream has to.
type loadClient struct {
	fleet  *loadFleet
	out    *bufio.Writer
	framer *http2.Framer
	header []byte // what has come of the message's header of 5 bytes
	left   int    // bytes that are to come of the message
	tail   []byte // its last bytes, where the nonce is
	count  int    // messages
}

func (c *loadClient) hello(i int) error {
	if _, err := c.out.WriteString(http2.ClientPreface); err != nil {
		return err
	}
	var block strings.Builder
	enc := hpack.NewEncoder(&block)
	enc.SetMaxDynamicTableSizeLimit(0) // as the server's settings say
	fields := [][2]string{
		{":method", "POST"}, {":scheme", "http"}, {":path", regov1.PolicyDiscoveryService_StreamPolicies_FullMethodName},
		{":authority", "control"}, {"content-type", "application/grpc"}, {"te", "trailers"},
	}
	if c.fleet.gzip {
		fields = append(fields, [2]string{"grpc-accept-encoding", "gzip"})
	}
	for _, h := range fields {
		if err := enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]}); err != nil {
			return err
		}
	}
	c.framer.SetReuseFrames()
	return errors.Join(
		c.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 64 << 10}),
		c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(block.String()), EndHeaders: true}),
		c.send(&regov1.StreamPoliciesRequest{Node: &regov1.Node{Service: "load", Instance: fmt.Sprintf("client-%05d", i)}}),
		c.out.Flush(),
	)
}

func (c *loadClient) send(r *regov1.StreamPoliciesRequest) error {
	b, err := proto.Marshal(r)
	if err != nil {
		return err
	}
	return c.framer.WriteData(1, false, append([]byte{0, 0, 0, byte(len(b) >> 8), byte(len(b))}, b...))
}

func (c *loadClient) run() error {
	unseen := uint32(0) // bytes that the server may not send yet once more
	for {
		frame, err := c.framer.ReadFrame()
		if err != nil {
			return err
		}
		switch f := frame.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				err = c.framer.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !f.IsAck() {
				err = c.framer.WritePing(true, f.Data)
			}
		case *http2.HeadersFrame:
			if f.StreamEnded() {
				return io.EOF
			}
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return io.EOF
		case *http2.DataFrame:
			c.fleet.read.Add(int64(len(f.Data())))
			if unseen += f.Length; unseen >= 32<<10 {
				err = errors.Join(c.framer.WriteWindowUpdate(0, unseen), c.framer.WriteWindowUpdate(1, unseen))
				unseen = 0
			}
			if err == nil {
				err = c.data(f.Data())
			}
		}
		if err == nil {
			err = c.out.Flush()
		}
		if err != nil {
			return err
		}
	}
}

// data takes bytes of messages, and answers each that is complete.
func (c *loadClient) data(b []byte) error {
	for len(b) > 0 {
		if c.left == 0 {
			n := min(5-len(c.header), len(b))
			c.header = append(c.header, b[:n]...)
			b = b[n:]
			if len(c.header) < 5 {
				return nil
			}
			c.left = int(c.header[1])<<24 | int(c.header[2])<<16 | int(c.header[3])<<8 | int(c.header[4])
		}
		n := min(c.left, len(b))
		c.tail = append(c.tail, b[:n]...)
		c.tail = append(c.tail[:0], c.tail[max(0, len(c.tail)-64):]...)
		b = b[n:]
		if c.left -= n; c.left > 0 {
			return nil
		}
		if err := c.message(c.header[0] == 1); err != nil {
			return err
		}
		c.header, c.tail = c.header[:0], c.tail[:0]
	}
	return nil
}

// message answers a message. The nonces of sets are numbers that count up, so a set that is
// compressed can be answered unread.
func (c *loadClient) message(compressed bool) error {
	if !compressed && strings.Contains(string(c.tail), "\x12\x09heartbeat") {
		return c.send(&regov1.StreamPoliciesRequest{Nonce: "heartbeat"})
	}
	c.count++
	n := strconv.Itoa(c.count)
	if err := c.send(&regov1.StreamPoliciesRequest{Nonce: n, Version: n}); err != nil {
		return err
	}
	c.fleet.answers.Add(1)
	c.fleet.signal()
	return nil
}
