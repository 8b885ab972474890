#include "server/child.h"

#include "tests/testing.h"

namespace nearline::server {
namespace {

// Share of the ticks of `seconds` that a program may run.
double ShareOf(Pacer* pacer, int seconds,
               const std::function<void(bool)>& ran) {
  const int ticks = static_cast<int>(absl::Seconds(seconds) / Pacer::kTick);
  int running = 0;
  for (int i = 0; i < ticks; ++i) {
    const bool may_run = pacer->MayRun();
    running += may_run ? 1 : 0;
    ran(may_run);
  }
  return static_cast<double>(running) / ticks;
}

TEST(Pacer, WithoutThrottlingNothingIsHeldBack) {
  Pacer pacer([] { return absl::Seconds(5); });
  EXPECT_EQ(ShareOf(&pacer, 60, [](bool) {}), 1);
}

TEST(Pacer, FindsWhatTheQuotaLeavesAndGoesOnWhenThereIsMore) {
  // The rest of the group leaves so much of each cycle; beyond, all are held.
  double left = 0.4, used = 0;
  int tick = 0;
  absl::Duration throttled;
  Pacer pacer([&] { return throttled; });
  const auto run = [&](bool may_run) {
    used += may_run ? 1.0 / 20 : 0;
    if (used > left) throttled += absl::Milliseconds(1);
    if (++tick % 20 == 0) used = 0;
  };
  ShareOf(&pacer, 60, run);  // to settle
  const double share = ShareOf(&pacer, 600, run);
  EXPECT_GT(share, 0.2);
  EXPECT_LT(share, 0.4);
  left = 2;
  ShareOf(&pacer, 30, run);
  EXPECT_EQ(ShareOf(&pacer, 60, run), 1);
}

TEST(Pacer, AProgramIsNeverStoppedForGood) {
  absl::Duration throttled;
  Pacer pacer([&] { return throttled += absl::Milliseconds(400); });
  ShareOf(&pacer, 10, [](bool) {});
  EXPECT_EQ(ShareOf(&pacer, 400, [](bool) {}), 0.05);
}

}  // namespace
}  // namespace nearline::server
