// Who is let in, and who is not.
#include <algorithm>
#include <atomic>
#include <map>
#include <thread>
#include <vector>

#include "absl/strings/str_split.h"
#include "base/file.h"
#include "base/text.h"
#include "server/access.h"
#include "server/listener.h"
#include "tests/server/raw_connection.h"
#include "tests/server/server_fixture.h"
#include "tests/server/test_certificates.h"

namespace nearline::server {
namespace {

using absl::StatusCode;
using testing::HasSubstr;

class DoorTest : public ServerTest {
 protected:
  static constexpr char kNames[] = "DNS:localhost,IP:127.0.0.1";

  void SetUp() override {
    ServerTest::SetUp();
    config_.reload_interval = absl::Milliseconds(20);
  }
  void Write(const std::string& name, const std::string& text) {
    ASSERT_THAT(WriteFileAtomic(dir_ / name, text), IsOk());
  }
  void UseTls(const TestIdentity& identity) {
    Write("c.pem", identity.certificate());
    Write("k.pem", identity.key());
    config_.tls.files.certificate = dir_ / "c.pem";
    config_.tls.files.key = dir_ / "k.pem";
  }
  // "name token roles ..." each.
  void UseCallers(const std::vector<std::string>& callers) {
    std::string yaml = "callers:\n";
    for (const std::string& caller : callers) {
      const std::vector<std::string> parts = absl::StrSplit(caller, ' ');
      absl::StrAppend(&yaml, "  - {name: ", parts[0], ", tokens: [",
                      TokenHash(parts[1]), "], roles: [", parts[2], "]}\n");
    }
    Write("callers.yaml", yaml);
    config_.access.file = dir_ / "callers.yaml";
  }
  // Only where the fixture's own client is let in, or need not be.
  void Restart() {
    server_.reset();
    auto server = Server::Start(config_);
    ASSERT_THAT(server, IsOk());
    server_ = *std::move(server);
    address_ = absl::StrCat("127.0.0.1:", server_->port());
  }
  client::Client Caller(const std::string& token,
                        const client::TlsOptions& tls = {}) {
    return client::Client({.address = address_,
                           .tls = tls,
                           .token = token,
                           .timeout = absl::Seconds(20),
                           .attempts = 1});
  }
  static absl::Status Ask(client::Client&& client) {
    api::RecommendRequest request;
    request.set_user("ann");
    return client.Recommend(request).status();
  }
  static absl::Status Ask(client::Client& client) {
    return Ask(std::move(client));
  }

  const TestIdentity authority_{
      {.common_name = "authority", .authority = true}};
};

TEST_F(DoorTest, TlsServesThoseWhoBelieveItsAuthority) {
  UseTls(TestIdentity({.names = kNames}, &authority_));
  Restart();
  EXPECT_THAT(Ask(Caller("", {.ca = authority_.certificate()})), IsOk());
  EXPECT_THAT(Ask(Caller("")), IsError(StatusCode::kUnavailable, ""));
  const TestIdentity stranger({.authority = true});
  EXPECT_THAT(Ask(Caller("", {.ca = stranger.certificate()})),
              IsError(StatusCode::kUnavailable, ""));
}

TEST_F(DoorTest, AServersNameIsChecked) {
  UseTls(TestIdentity({.names = "DNS:elsewhere.example"}, &authority_));
  Restart();
  EXPECT_THAT(Ask(Caller("", {.ca = authority_.certificate()})),
              IsError(StatusCode::kUnavailable, ""));
  EXPECT_THAT(Ask(Caller("", {.ca = authority_.certificate(),
                              .server_name = "elsewhere.example"})),
              IsOk());
}

TEST_F(DoorTest, ACertificateIsExchangedUnderTraffic) {
  UseTls(TestIdentity({.names = kNames}, &authority_));
  Restart();
  client::Client before = Caller("", {.ca = authority_.certificate()});
  EXPECT_THAT(Ask(before), IsOk());
  const TestIdentity next_authority({.common_name = "next", .authority = true});
  UseTls(TestIdentity({.names = kNames}, &next_authority));
  // gRPC looks once a second. Who is connected stays so.
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  absl::Status status;
  do {
    EXPECT_THAT(Ask(before), IsOk());
    status = Ask(Caller("", {.ca = next_authority.certificate()}));
  } while (!status.ok() && absl::Now() < deadline);
  EXPECT_THAT(status, IsOk());

  // A key that does not fit changes nothing, and is told.
  Write("k.pem", TestIdentity({}).key());
  while (!absl::StrContains(
      server_->Scrape(),
      "nearline_reload_failures_total{what=\"certificates\"} 1")) {
    ASSERT_LT(absl::Now(), deadline);
    EXPECT_THAT(Ask(Caller("", {.ca = next_authority.certificate()})), IsOk());
  }
  EXPECT_THAT(server_->Scrape(),
              HasSubstr("nearline_certificate_expiry_timestamp_seconds 1"));
}

TEST_F(DoorTest, MutualTlsNamesTheCaller) {
  UseTls(TestIdentity({.names = kNames}, &authority_));
  Write("ca.pem", authority_.certificate());
  config_.tls.files.client_ca = dir_ / "ca.pem";
  Write(
      "callers.yaml",
      "callers:\n  - {name: shop, certificates: [spiffe://a/shop], roles: "
      "[recommend]}\n  - {name: ops, certificates: [ops], roles: [manage]}\n");
  config_.access.file = dir_ / "callers.yaml";
  Restart();
  const auto caller = [&](const TestIdentity& identity) {
    return Caller("", {.ca = authority_.certificate(),
                       .certificate = identity.certificate(),
                       .key = identity.key()});
  };
  const TestIdentity shop({.names = "URI:spiffe://a/shop"}, &authority_);
  EXPECT_THAT(Ask(caller(shop)), IsOk());
  EXPECT_THAT(caller(shop).Status(),
              IsError(StatusCode::kPermissionDenied, "needs the role manage"));
  EXPECT_THAT(
      caller(TestIdentity({.common_name = "ops"}, &authority_)).Status(),
      IsOk());
  EXPECT_THAT(Ask(caller(TestIdentity({.common_name = "x"}, &authority_))),
              IsError(StatusCode::kUnauthenticated, "certificate"));
  const TestIdentity forger({.authority = true});
  EXPECT_THAT(
      Ask(caller(TestIdentity({.names = "URI:spiffe://a/shop"}, &forger))),
      IsError(StatusCode::kUnavailable, ""));
  EXPECT_THAT(Ask(Caller("", {.ca = authority_.certificate()})),
              IsError(StatusCode::kUnavailable, ""));
}

TEST_F(DoorTest, EveryMethodAsksWhoCalls) {
  UseCallers({"shop s recommend", "feeder f feedback", "ops o manage"});
  Restart();
  channel_ = grpc::CreateChannel(address_, grpc::InsecureChannelCredentials());
  // Of every method of every service, no matter who adds one.
  for (const char* name : {"RecommendationService", "FeedbackService",
                           "ModelService", "CatalogService", "AdminService"}) {
    const auto* const service =
        google::protobuf::DescriptorPool::generated_pool()->FindServiceByName(
            absl::StrCat("nearline.v1.", name));
    ASSERT_NE(service, nullptr);
    for (int i = 0; i < service->method_count(); ++i) {
      const std::string method =
          absl::StrCat(name, "/", std::string(service->method(i)->name()));
      EXPECT_EQ(SendRaw(method, "").error_code(), grpc::UNAUTHENTICATED)
          << method;
    }
  }
  EXPECT_THAT(Ask(Caller("s")), IsOk());
  EXPECT_THAT(Ask(Caller("f")), IsError(StatusCode::kPermissionDenied, ""));
  EXPECT_THAT(Caller("s").DeleteUser("ann"),
              IsError(StatusCode::kPermissionDenied, "manage"));
  EXPECT_THAT(Caller("o").Status(), IsOk());
  EXPECT_THAT(Caller("f").Export([](const auto&) { return absl::OkStatus(); }),
              IsError(StatusCode::kPermissionDenied, "manage"));
  api::FeedbackRequest feedback;
  *feedback.add_events() = Like("ann", "i001");
  EXPECT_THAT(Caller("f").Feedback(feedback), IsOk());
  EXPECT_THAT(Caller("s").Feedback(feedback),
              IsError(StatusCode::kPermissionDenied, "feedback"));
  const std::string metrics = server_->Scrape();
  EXPECT_THAT(
      metrics,
      HasSubstr("nearline_calls_denied_total{reason=\"permission\"} 4"));
  EXPECT_THAT(metrics, testing::Not(HasSubstr("shop")));
}

// gRPC gets on with a connection only while somebody waits for it.
TEST_F(DoorTest, AClientFindsAServerThatComesAfterItsCall) {
  UseTls(TestIdentity({.names = kNames}, &authority_));
  server_.reset();
  config_.listen = address_;
  // One who answers nobody, until the client has tried.
  std::atomic<int> tried{0};
  auto deaf = Listener::Bind(address_, 100);
  ASSERT_THAT(deaf, IsOk());
  (*deaf)->Start([&](int, int fd) {
    close(fd);
    ++tried;
  });
  client::Client client({.address = address_,
                         .tls = {.ca = authority_.certificate()},
                         .timeout = absl::Seconds(20)});
  std::thread call([&] { EXPECT_THAT(Ask(client), IsOk()); });
  while (tried == 0) std::this_thread::yield();
  (*deaf)->Stop();
  auto server = Server::Start(config_);
  call.join();
  ASSERT_THAT(server, IsOk());
}

TEST_F(DoorTest, AStreamOfFeedbackAsksToo) {
  UseCallers({"shop s recommend"});
  Restart();
  for (const auto& [token, code] : {std::pair("", grpc::UNAUTHENTICATED),
                                    std::pair("s", grpc::PERMISSION_DENIED)}) {
    const auto stub = api::FeedbackService::NewStub(
        grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    if (*token != '\0') {
      context.AddMetadata("authorization", absl::StrCat("Bearer ", token));
    }
    const auto stream = stub->StreamFeedback(&context);
    api::FeedbackResponse response;
    EXPECT_FALSE(stream->Read(&response));
    EXPECT_EQ(stream->Finish().error_code(), code);
  }
}

TEST_F(DoorTest, AStreamEndsWithItsCallersRight) {
  UseCallers({"feeder f feedback"});
  Restart();
  const auto stub = api::FeedbackService::NewStub(
      grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer f");
  const auto stream = stub->StreamFeedback(&context);
  api::FeedbackRequest request;
  *request.add_events() = Like("ann", "i001");
  api::FeedbackResponse response;
  ASSERT_TRUE(stream->Write(request) && stream->Read(&response));
  UseCallers({"feeder other feedback"});
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (stream->Write(request) && stream->Read(&response)) {
    ASSERT_LT(absl::Now(), deadline);
  }
  EXPECT_EQ(stream->Finish().error_code(), grpc::UNAUTHENTICATED);
}

TEST_F(DoorTest, CompressedMessagesAreRefusedUnread) {
  grpc::ClientContext context;
  context.set_compression_algorithm(GRPC_COMPRESS_GZIP);
  api::FeedbackRequest request;
  for (int i = 0; i < 1000; ++i) *request.add_events() = Like("ann", "i001");
  api::FeedbackResponse response;
  const grpc::Status status = api::FeedbackService::NewStub(channel_)->Feedback(
      &context, request, &response);
  EXPECT_EQ(status.error_code(), grpc::UNIMPLEMENTED) << status.error_message();
  EXPECT_THAT(ServerTest::Ask("ann"), IsOk());
}

TEST_F(DoorTest, ProbesNeedNeitherTlsNorAToken) {
  UseTls(TestIdentity({.names = kNames}, &authority_));
  UseCallers({"shop s recommend"});
  const int port = [] {  // that is free, most likely
    auto listener = Listener::Bind("127.0.0.1:0", 1);
    return (*listener)->port();
  }();
  config_.health_listen = absl::StrCat("127.0.0.1:", port);
  Restart();
  client::Client probe({.address = config_.health_listen, .attempts = 1});
  EXPECT_TRUE(*probe.IsServing(""));
  EXPECT_TRUE(*probe.IsServing("live"));
  EXPECT_TRUE(*probe.IsServing("nearline.v1.RecommendationService"));
  EXPECT_THAT(probe.IsServing("nonsense"), IsError(StatusCode::kNotFound, ""));
  EXPECT_THAT(Ask(probe), IsError(StatusCode::kUnimplemented, ""));
  EXPECT_TRUE(*Caller("", {.ca = authority_.certificate()}).IsServing(""));
}

TEST_F(DoorTest, CallersAreTakenAnewWhenTheirFileChanges) {
  UseCallers({"shop old recommend"});
  Restart();
  EXPECT_THAT(Ask(Caller("old")), IsOk());
  UseCallers({"shop new recommend"});
  const absl::Time deadline = absl::Now() + absl::Seconds(60);
  while (!Ask(Caller("new")).ok()) ASSERT_LT(absl::Now(), deadline);
  EXPECT_THAT(Ask(Caller("old")), IsError(StatusCode::kUnauthenticated, ""));
}

TEST_F(DoorTest, ManagementIsRecordedWithoutSecretsAndIds) {
  UseCallers({"ops hunter2 manage", "shop s recommend"});
  config_.log.audit = dir_ / "audit.log";
  Restart();
  EXPECT_FALSE(Caller("hunter2").DeleteUser("ann").ok());
  EXPECT_THAT(Caller("hunter2").Status(), IsOk());  // changes nothing
  EXPECT_FALSE(Caller("s").Rollback("").ok());
  EXPECT_FALSE(Caller("guess").Rollback("").ok());
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer hunter2");
  context.AddMetadata(
      "traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01");
  api::UpsertUsersResponse response;
  EXPECT_TRUE(
      api::CatalogService::NewStub(
          grpc::CreateChannel(address_, grpc::InsecureChannelCredentials()))
          ->UpsertUsers(&context, {}, &response)
          .error_code() == grpc::INVALID_ARGUMENT);
  server_.reset();
  const std::string log = *ReadFile(config_.log.audit);
  EXPECT_THAT(log, testing::Not(HasSubstr("hunter2")));
  EXPECT_THAT(log, testing::Not(HasSubstr("ann")));
  std::vector<std::string> seen;
  for (const auto line : absl::StrSplit(log, '\n', absl::SkipEmpty())) {
    const Json entry = *ParseJson(line);
    seen.push_back(absl::StrCat(entry["audit"].get<std::string>(), " ",
                                entry["caller"].get<std::string>(), " ",
                                entry["code"].get<std::string>(), " ",
                                entry["trace"].get<std::string>()));
    EXPECT_THAT(entry["peer"].get<std::string>(), HasSubstr("127.0.0.1"));
  }
  EXPECT_THAT(seen, testing::ElementsAre("DeleteUser ops NOT_FOUND ",
                                         "Rollback shop PERMISSION_DENIED ",
                                         "UpsertUsers ops INVALID_ARGUMENT "
                                         "0af7651916cd43dd8448eb211c80319c"));
}

TEST_F(DoorTest, CallsInFlightAreThoseThatHaveNotEnded) {
  UseCallers({"shop s recommend"});
  Restart();
  EXPECT_THAT(Ask(Caller("s")), IsOk());
  EXPECT_FALSE(Ask(Caller("guess")).ok());
  EXPECT_FALSE(Caller("s").Rollback("").ok());
  EXPECT_FALSE(SendRaw("RecommendationService/Recommend", "\xff\xff").ok());
  // An answer is on its way before the call has ended here.
  const absl::Time deadline = absl::Now() + absl::Seconds(10);
  while (server_->Scrape().find("nearline_calls_in_flight 0\n") ==
         std::string::npos) {
    ASSERT_LT(absl::Now(), deadline) << server_->Scrape();
    absl::SleepFor(absl::Milliseconds(5));
  }
}

TEST_F(DoorTest, LinesThatCannotBeRecordedAreCounted) {
  UseCallers({"ops hunter2 manage"});
  config_.log.audit = "/dev/full";
  Restart();
  for (int i = 1; i <= 2; ++i) {
    EXPECT_FALSE(Caller("hunter2").DeleteUser("ann").ok());
    const std::string lost =
        absl::StrCat("nearline_audit_lines_lost_total ", i);
    const absl::Time deadline = absl::Now() + absl::Seconds(10);
    while (server_->Scrape().find(lost) == std::string::npos) {
      ASSERT_LT(absl::Now(), deadline);
      absl::SleepFor(absl::Milliseconds(5));
    }
  }
}

TEST_F(DoorTest, ATokenDoesNotTravelInTheOpen) {
  client::Client far({.address = "192.0.2.1:50051", .token = "t"});
  EXPECT_THAT(far.Status(), IsError(StatusCode::kFailedPrecondition, "TLS"));
  client::Client named({.address = "127.example.com:50051", .token = "t"});
  EXPECT_THAT(named.Status(), IsError(StatusCode::kFailedPrecondition, "TLS"));
  client::Client torn({.address = address_, .token = "two\nlines"});
  EXPECT_THAT(torn.Status(),
              IsError(StatusCode::kInvalidArgument, "visible ASCII"));
}

TEST_F(DoorTest, ARefusedRateIsWaitedForAndAQuotaIsNot) {
  Write("callers.yaml",
        absl::StrCat("callers:\n  - {name: shop, tokens: [", TokenHash("s"),
                     "], roles: [recommend], calls_per_second: 50, burst: 1, "
                     "calls_per_day: 3}\n"));
  config_.access.file = dir_ / "callers.yaml";
  Restart();
  client::Client shop({.address = address_, .token = "s"});
  for (int i = 0; i < 3; ++i) EXPECT_THAT(Ask(shop), IsOk());
  const absl::Time before = absl::Now();
  EXPECT_THAT(Ask(shop), IsError(StatusCode::kResourceExhausted, "midnight"));
  EXPECT_LT(absl::Now() - before, absl::Seconds(10));
}

std::string Frame(uint8_t type, uint8_t flags, uint32_t stream,
                  const std::string& payload) {
  const auto size = static_cast<uint32_t>(payload.size());
  std::string out;
  for (const int shift : {16, 8, 0}) {
    out.push_back(static_cast<char>(size >> shift & 0xff));
  }
  out.push_back(static_cast<char>(type));
  out.push_back(static_cast<char>(flags));
  for (const int shift : {24, 16, 8, 0}) {
    out.push_back(static_cast<char>(stream >> shift & 0xff));
  }
  return out + payload;
}

const char kPreface[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
constexpr uint8_t kSettings = 4, kPing = 6;

TEST_F(DoorTest, WhoPingsWithoutEndIsSentAway) {
  RawConnection pinger(server_->port());
  ASSERT_TRUE(pinger.Send(kPreface + Frame(kSettings, 0, 0, "")));
  for (int i = 0; i < 100; ++i) {
    if (!pinger.Send(Frame(kPing, 0, 0, "12345678"))) break;
  }
  EXPECT_TRUE(pinger.HungUpBy(absl::Now() + absl::Seconds(60)));
  EXPECT_THAT(ServerTest::Ask("ann"), IsOk());
}

TEST_F(DoorTest, ThousandsWhoSayNothingDoNoHarm) {
  std::vector<RawConnection> idle;
  for (int i = 0; i < 2000; ++i) {
    ASSERT_TRUE(idle.emplace_back(server_->port()).connected()) << i;
  }
  EXPECT_THAT(ServerTest::Ask("ann"), IsOk());
  for (size_t i = 0; i < idle.size(); i += 2) {
    idle[i].Send(kPreface + Frame(kSettings, 0, 0, ""));
  }
  EXPECT_THAT(ServerTest::Ask("ann"), IsOk());
}

TEST_F(DoorTest, MoreConnectionsThanAllowedAreClosed) {
  config_.limits.max_connections = 5;
  Restart();
  std::vector<RawConnection> idle;
  for (int i = 0; i < 5; ++i) {
    idle.emplace_back(server_->port()).Send(kPreface);
  }
  EXPECT_TRUE(
      RawConnection(server_->port()).HungUpBy(absl::Now() + absl::Seconds(60)));
  idle.clear();
  client::Client patient({.address = address_});
  EXPECT_THAT(Ask(patient), IsOk());
}

TEST_F(DoorTest, MetadataBeyondTheLimitIsRefused) {
  // Others on the same connection do not notice.
  const auto feedback = api::FeedbackService::NewStub(channel_);
  grpc::ClientContext beside;
  const auto stream = feedback->StreamFeedback(&beside);
  api::FeedbackRequest event;
  *event.add_events() = Like("ann", "i001");
  api::FeedbackResponse acknowledged;
  ASSERT_TRUE(stream->Write(event) && stream->Read(&acknowledged));
  grpc::ClientContext context;
  context.AddMetadata("x", std::string(20 << 10, 'x'));
  api::StatusResponse response;
  const grpc::Status status =
      api::AdminService::NewStub(channel_)->Status(&context, {}, &response);
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT)
      << status.error_message();
  EXPECT_THAT(status.error_message(),
              testing::HasSubstr("expected 8192 or less"));
  EXPECT_TRUE(stream->Write(event) && stream->Read(&acknowledged));
  stream->WritesDone();
  EXPECT_TRUE(stream->Finish().ok());
  EXPECT_THAT(ServerTest::Ask("ann"), IsOk());
}

TEST_F(DoorTest, WhoNeverReadsHoldsNothingUp) {
  // An export that is not read stops after what flow control lets out.
  for (int i = 0; i < 50; ++i) {
    api::UpsertItemsRequest items;
    for (int j = 0; j < 200; ++j) {
      api::Item* const item = items.add_items();
      item->set_id(absl::StrCat("big-", i, "-", j));
      (*item->mutable_attributes())["text"].set_text(std::string(1000, 'x'));
    }
    ASSERT_THAT(client_->UpsertItems(items), IsOk());
  }
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts;
  std::vector<std::unique_ptr<grpc::ClientReader<api::ExportResponse>>> readers;
  const auto stub = api::AdminService::NewStub(channel_);
  for (int i = 0; i < 20; ++i) {
    contexts.push_back(std::make_unique<grpc::ClientContext>());
    readers.push_back(stub->Export(contexts.back().get(), {}));
  }
  for (int i = 0; i < 20; ++i) EXPECT_THAT(ServerTest::Ask("ann"), IsOk());
  for (auto& context : contexts) context->TryCancel();
  for (auto& reader : readers) {
    api::ExportResponse chunk;
    while (reader->Read(&chunk)) {
    }
    EXPECT_EQ(reader->Finish().error_code(), grpc::CANCELLED);
  }
}

TEST(Config, ListeningBeyondThisMachineWithoutTlsMustBeMeant) {
  const TempDir dir;
  const auto load = [&](const std::string& yaml) {
    EXPECT_THAT(WriteFileAtomic(dir / "f.yaml", yaml), IsOk());
    return LoadConfig(dir / "f.yaml").status();
  };
  for (const char* address :
       {"0.0.0.0:1", "[::]:1", "10.0.0.1:1", "nearline.example:1"}) {
    EXPECT_THAT(load(absl::StrCat("listen: \"", address, "\"\n")),
                IsError(StatusCode::kInvalidArgument, "without TLS"));
  }
  for (const char* address : {"127.0.0.1:1", "localhost:1", "[::1]:1"}) {
    EXPECT_THAT(load(absl::StrCat("listen: \"", address, "\"\n")), IsOk());
  }
  EXPECT_THAT(load("listen: 0.0.0.0:1\nallow_plaintext: true\n"), IsOk());
  EXPECT_THAT(load("listen: 0.0.0.0:1\ntls: {certificate: c, key: k}\n"),
              IsOk());
  EXPECT_THAT(load("tls: {certificate: c}\n"),
              IsError(StatusCode::kInvalidArgument, "set both"));
  EXPECT_THAT(load("tls: {client_ca: c}\n"),
              IsError(StatusCode::kInvalidArgument, "tls.certificate"));
}

}  // namespace
}  // namespace nearline::server
