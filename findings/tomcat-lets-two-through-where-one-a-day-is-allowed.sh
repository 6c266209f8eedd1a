#!/usr/bin/env bash
# Tomcat 10.1.60 (Debian 12: libtomcat10-java), with Java 17, 1 December 2026.
#
# `RateLimitFilter` with one request a day, `bucketRequests=1` and `bucketDuration=86400`. One would
# guess that of ten requests the first gets through. The first two do, unless a new window begins
# between them: the filter's default counts in windows of 2^n milliseconds, at least as long as asked
# for, and raises the number in proportion, rounded. Its documentation says so, by the example of 100
# in 60 s, which become 109 in 65 s. Of small numbers the rounding makes something else: one a day is
# two in 37 hours, and one in ten seconds is two in 16. One in 60 s stays one, so there it denies a
# client that comes each minute. `org.apache.catalina.util.ExactRateLimiter` as `rateLimitClassName`
# lets one through. The 429 has no `Retry-After`, and its `RateLimit` field no time either, with both
# classes.
set -euo pipefail
jars=$(ls /usr/share/java/tomcat10-{catalina,coyote,juli,util,util-scan,api,servlet-api,jni,annotations-api,jaspic-api}.jar 2>/dev/null | paste -sd:) || true
[[ $jars == *catalina* ]] || { echo "install Tomcat 10 (Debian: apt-get install libtomcat10-java)" >&2; exit 1; }
directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
cd "$directory"

cat >Run.java <<'JAVA'
import jakarta.servlet.http.HttpServlet;
import jakarta.servlet.http.HttpServletRequest;
import jakarta.servlet.http.HttpServletResponse;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.util.logging.LogManager;
import org.apache.catalina.Context;
import org.apache.catalina.startup.Tomcat;
import org.apache.catalina.util.ServerInfo;
import org.apache.tomcat.util.descriptor.web.FilterDef;
import org.apache.tomcat.util.descriptor.web.FilterMap;

public class Run {
    static final int[][] LIMITS = {{1, 86400}, {1, 10}, {1, 60}};
    static final String[] CLASSES = {"FastRateLimiter", "ExactRateLimiter"};

    static void limit(Context context, String path, int[] limit, String className) {
        FilterDef filter = new FilterDef();
        filter.setFilterName(path);
        filter.setFilterClass("org.apache.catalina.filters.RateLimitFilter");
        filter.addInitParameter("bucketRequests", "" + limit[0]);
        filter.addInitParameter("bucketDuration", "" + limit[1]);
        filter.addInitParameter("exposeHeaders", "true");
        filter.addInitParameter("rateLimitClassName", "org.apache.catalina.util." + className);
        context.addFilterDef(filter);
        FilterMap map = new FilterMap();
        map.setFilterName(path);
        map.addURLPattern(path);
        context.addFilterMap(map);
        context.addServletMappingDecoded(path, "servlet");
    }

    public static void main(String[] arguments) throws Exception {
        LogManager.getLogManager().reset();
        Tomcat tomcat = new Tomcat();
        tomcat.setBaseDir("tomcat");
        tomcat.setPort(0);
        Context context = tomcat.addContext("", null);
        Tomcat.addServlet(context, "servlet", new HttpServlet() {
            @Override
            protected void doGet(HttpServletRequest request, HttpServletResponse response) {
                response.setStatus(204);
            }
        });
        for (String className : CLASSES) {
            for (int[] limit : LIMITS) {
                limit(context, "/" + className + limit[1], limit, className);
            }
        }
        tomcat.start();
        System.out.println(ServerInfo.getServerInfo());
        HttpClient client = HttpClient.newHttpClient();
        StringBuilder seen = new StringBuilder();
        for (String className : CLASSES) {
            for (int[] limit : LIMITS) {
                URI uri = URI.create("http://127.0.0.1:" + tomcat.getConnector().getLocalPort() + "/" + className + limit[1]);
                // Begins in the first half of a window, so that no other begins in the meantime.
                long window = Long.highestOneBit(limit[1] * 1000L) * 2;
                if (limit[1] < 100) {
                    while (System.currentTimeMillis() % window > window / 2 || System.currentTimeMillis() % (limit[1] * 1000L) > limit[1] * 500L) {
                        Thread.sleep(100);
                    }
                }
                int admitted = 0;
                HttpResponse<Void> last = null;
                for (int count = 0; count < 10; count++) {
                    last = client.send(HttpRequest.newBuilder(uri).build(), HttpResponse.BodyHandlers.discarding());
                    admitted += last.statusCode() == 204 ? 1 : 0;
                }
                System.out.printf("%s, %d in %d s: %d of ten admitted, then %d, RateLimit-Policy: %s, RateLimit: %s%n",
                    className, limit[0], limit[1], admitted, last.statusCode(),
                    last.headers().firstValue("RateLimit-Policy").orElse(null), last.headers().firstValue("RateLimit").orElse(null));
                boolean hasTime = last.headers().firstValue("Retry-After").isPresent()
                    || last.headers().firstValue("RateLimit").orElse("").contains(";t=");
                seen.append(admitted).append(hasTime ? "t " : " ");
            }
        }
        tomcat.stop();
        System.exit(seen.toString().equals("2 2 1 1 1 1 ") ? 0 : 1);
    }
}
JAVA
javac -cp "$jars" Run.java
java -cp "$jars:." Run
