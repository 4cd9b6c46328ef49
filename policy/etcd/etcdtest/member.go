package etcdtest

import (
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// memberEnv tells a process that it is to be a member, and which.
const memberEnv = "REGO_ETCDTEST_MEMBER"

type member struct {
	Name    string
	Dir     string
	Peer    string // the address by which the others know it
	Client  string // the address by which clients know it
	Cluster string // all members, as --initial-cluster
	Tick    time.Duration
}

// Main is the first thing that a program calls which starts clusters: in TestMain, or in main. If the
// program was started by a [Cluster] to be a member, Main is that member and does not return.
// Otherwise it does nothing.
func Main() {
	text, ok := os.LookupEnv(memberEnv)
	if !ok {
		return
	}
	if err := serve(text); err != nil {
		fmt.Fprintln(os.Stderr, "etcdtest:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// serve is a member until its stdin ends, which is when the process that started it has ended.
func serve(text string) error {
	var m member
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		return err
	}
	cfg, err := m.config()
	if err != nil {
		return err
	}
	server, err := embed.StartEtcd(cfg)
	if err != nil {
		return err
	}
	fmt.Println(readyLine, server.Peers[0].Addr(), server.Clients[0].Addr())
	go func() {
		err := <-server.Err()
		fmt.Fprintln(os.Stderr, "etcdtest:", err)
		os.Exit(1)
	}()
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

func (m member) config() (*embed.Config, error) {
	cfg := embed.NewConfig()
	cfg.Name, cfg.Dir, cfg.InitialCluster = m.Name, m.Dir, m.Cluster
	listen := url.URL{Scheme: "http", Host: "127.0.0.1:0"}
	cfg.ListenPeerUrls, cfg.ListenClientUrls = []url.URL{listen}, []url.URL{listen}
	peer, err := url.Parse(m.Peer)
	if err != nil {
		return nil, err
	}
	client, err := url.Parse(m.Client)
	if err != nil {
		return nil, err
	}
	cfg.AdvertisePeerUrls, cfg.AdvertiseClientUrls = []url.URL{*peer}, []url.URL{*client}
	cfg.TickMs, cfg.ElectionMs = uint(m.Tick.Milliseconds()), uint(10*m.Tick.Milliseconds())
	cfg.EnableGRPCGateway = false
	// A process that is killed loses nothing that it has given to the kernel.
	cfg.UnsafeNoFsync = true
	encoder := zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig())
	cfg.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(zapcore.NewCore(encoder, zapcore.AddSync(os.Stderr), zap.WarnLevel)))
	return cfg, nil
}

const readyLine = "etcdtest member ready"

// addresses are what a member says of where it listens.
func addresses(line string) (peer, client string, ok bool) {
	rest, ok := strings.CutPrefix(line, readyLine+" ")
	if !ok {
		return "", "", false
	}
	return strings.Cut(rest, " ")
}
