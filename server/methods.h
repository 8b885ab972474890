// Every method of the API and the roles that may call it.
#ifndef NEARLINE_SERVER_METHODS_H_
#define NEARLINE_SERVER_METHODS_H_

#include "server/access.h"

namespace nearline::server::methods {

// Those that change what all callers get, or show what users did.
inline constexpr bool kAudited = true;
inline constexpr bool kStreams = true;

inline constexpr Method kRecommend = {"Recommend", Roles::kRecommend};
inline constexpr Method kSimilarItems = {"SimilarItems", Roles::kRecommend};

inline constexpr Method kFeedback = {"Feedback", Roles::kFeedback};
inline constexpr Method kStreamFeedback = {"StreamFeedback", Roles::kFeedback,
                                           false, kStreams};
inline constexpr Method kRetractEvents = {"RetractEvents", Roles::kFeedback};

inline constexpr Method kRetrain = {"Retrain", kManage, kAudited};
inline constexpr Method kWatchRun = {"WatchRun", kManage, false, kStreams};
inline constexpr Method kListGenerations = {"ListGenerations", kManage};
inline constexpr Method kRollback = {"Rollback", kManage, kAudited};

inline constexpr Method kUpsertItems = {"UpsertItems", kManage, kAudited};
inline constexpr Method kDeleteItems = {"DeleteItems", kManage, kAudited};
inline constexpr Method kGetItem = {"GetItem", kManage};
inline constexpr Method kListItems = {"ListItems", kManage};
inline constexpr Method kUpsertUsers = {"UpsertUsers", kManage, kAudited};
inline constexpr Method kGetUser = {"GetUser", kManage, kAudited};
inline constexpr Method kListUsers = {"ListUsers", kManage, kAudited};
inline constexpr Method kGetHistory = {"GetHistory", kManage, kAudited};
inline constexpr Method kDeleteUser = {"DeleteUser", kManage, kAudited};

inline constexpr Method kPing = {"Ping", kAnyRole};
inline constexpr Method kStatus = {"Status", kManage};
inline constexpr Method kExport = {"Export", kManage, kAudited, kStreams};
inline constexpr Method kBackup = {"Backup", kManage, kAudited, kStreams};
inline constexpr Method kListBackups = {"ListBackups", kManage};

// grpc.health.v1
inline constexpr Method kCheck = {"Check", kAnyone};
inline constexpr Method kWatch = {"Watch", kAnyone, false, kStreams};

}  // namespace nearline::server::methods

#endif  // NEARLINE_SERVER_METHODS_H_
